"""The result of a network when devices and messages are lost: the arithmetic of a degraded session.

Each sample of a batch may lose different devices. A lost device sends nothing and contributes nothing to the answer.
Merges use the messages that arrived: ``mean`` averages over them, ``weighted`` drops the missing terms. A device's
tensors hold rows only for the samples in which it is alive. In training, its batch norms therefore see the same
mixture of complete and degraded inputs as the device itself, and no sample without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from sepnas.errors import PlanError
from sepnas.plan.merge_rules import MERGERS, MergeRule
from sepnas.separable.policy import Readout

Message: TypeAlias = tuple[int, int, int]
"""``(block, source, destination)``, sent after ``block``; logits sent to the reader have block -1."""
LOGITS = -1
Arrived: TypeAlias = tuple[Tensor, Tensor]
"""Row indices of the receiver, and the values received for each row."""


@dataclass(frozen=True, eq=False)
class Outage:
    """The losses in a batch, as boolean masks: ``devices`` ``(N, B)``, and ``(B,)`` for each message.

    A message is also lost where its source or destination is lost.
    """

    devices: Tensor
    messages: Mapping[Message, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lost: Collection[int], num_devices: int, batch: int, device: torch.device | None = None) -> Self:
        """An outage that loses the same devices in every sample."""
        ranks = torch.tensor([rank in lost for rank in range(num_devices)], device=device)
        return cls(ranks[:, None].expand(num_devices, batch))

    def kept(self, rank: int, x_BCHW: Tensor) -> Tensor | None:
        """The rows of ``(B, ...)`` in which the device is alive; None if there are none."""
        rows = self._rows[rank]
        return _take(x_BCHW, rows) if len(rows) else None

    def arrived(self, message: Message, sent: Tensor) -> Arrived:
        """The part of the source's tensor ``sent`` that reaches the destination."""
        _, source, destination = message
        samples = self._samples(message)
        return self._places[destination][samples], _take(sent, self._places[source][samples])

    def mean_logits(self, reader: int, logits: Mapping[int, Tensor]) -> Tensor:
        """``(B, K)``: the mean per sample of the logits that reached the reader, or of all others where it is lost.

        When the reader is lost, the client asks the other devices itself, so lost messages to the reader do not matter.
        """
        first = logits[min(logits)]
        num_samples = self.devices.shape[1]
        total, counts = first.new_zeros(num_samples, first.shape[1]), first.new_zeros(num_samples, 1)
        for rank in sorted(logits, key=lambda rank: (rank != reader, rank)):
            came = self._alive[rank]
            if (LOGITS, rank, reader) in self.messages:
                came = came & ~(self.messages[LOGITS, rank, reader] & self._alive[reader])
            samples = came.nonzero().flatten()
            total = total.index_add(0, samples, logits[rank][self._places[rank][samples]])
            counts[samples] += 1
        return total / counts

    def check(self, readout: Readout) -> None:
        """Raise :class:`PlanError` if a sample has no device left to answer."""
        if readout.kind == "device" and bool(self.devices[readout.device].any()):
            raise PlanError(f"device {readout.device} alone has the classifier, so it cannot be lost")
        if bool(self.devices.all(0).any()):
            raise PlanError(f"all {len(self.devices)} devices are lost, so nobody answers; one must be left")

    def _samples(self, message: Message) -> Tensor:
        _, source, destination = message
        came = self._alive[source] & self._alive[destination]
        if message in self.messages:
            came = came & ~self.messages[message]
        return came.nonzero().flatten()

    @cached_property
    def _alive(self) -> Tensor:
        return ~self.devices

    @cached_property
    def _rows(self) -> list[Tensor]:
        """For each device, the indices of the samples in which it is alive."""
        return [alive.nonzero().flatten() for alive in self._alive]

    @cached_property
    def _places(self) -> Tensor:
        """``(N, B)``: the row of each sample in a device's tensors."""
        return self._alive.cumsum(1) - 1


class _RowOperations:
    """Merges of messages that arrived for some of the samples."""

    def add(self, own: Tensor, parts: Sequence[Arrived]) -> Tensor:
        for rows, part in parts:
            own = _add_rows(own, rows, part)
        return own

    def minus(self, part: Arrived, own: Tensor) -> Arrived:
        rows, message = part
        return rows, message - _take(own[:, : message.shape[1]], rows)

    def times(self, weight: Tensor, part: Arrived) -> Arrived:
        rows, message = part
        return rows, weight * message

    def divide_by_counts(self, total: Tensor, parts: Sequence[Arrived]) -> Tensor:
        counts = total.new_ones(total.shape[:2])
        for rows, message in parts:
            counts[rows, : message.shape[1]] += 1
        return total / counts[:, :, None, None]


_OPERATIONS = _RowOperations()


def merge_arrived(
    rule: MergeRule, own_BCHW: Tensor, received: Sequence[Arrived], weights: Sequence[Tensor] = ()
) -> Tensor:
    """Merge the messages that arrived; ``weights`` holds one scalar per message for a learned rule."""
    return MERGERS[rule].merge(_OPERATIONS, own_BCHW, received, weights)


def _take(x_BCHW: Tensor, rows: Tensor) -> Tensor:
    """Select rows and keep the memory layout of ``x``, also for the gradient; plain ``index_select`` does not."""
    if x_BCHW.is_contiguous(memory_format=torch.channels_last):
        return x_BCHW.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return x_BCHW.index_select(0, rows)


def _add_rows(whole: Tensor, rows: Tensor, prefix: Tensor) -> Tensor:
    channels, prefix = prefix.shape[1], prefix.to(whole.dtype)
    if channels == whole.shape[1]:
        return whole.index_add(0, rows, prefix)
    return torch.cat((whole[:, :channels].index_add(0, rows, prefix), whole[:, channels:]), dim=1)
