"""What a network computes when devices and messages are lost: the arithmetic of a session that degrades.

Each sample of a batch may lose others. A lost device sends nothing and has no part in the answer; merges are of what
came: the mean over it, and of ``weighted`` ones the terms that are there. What a device has not lost it computes from
its own samples alone (tensors hold no rows for the others), so in training a batch norm sees what the device sees
while it lives, whole and degraded inputs in the shares in which they occur, and nothing of the samples without it.
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
"""The block after which it is sent, source, destination; logits on their way to the reader are after block -1."""
LOGITS = -1
Arrived: TypeAlias = tuple[Tensor, Tensor]
"""Rows of the receiver, and what came for each of them."""


@dataclass(frozen=True, eq=False)
class Outage:
    """What a batch is computed without: ``devices`` ``(N, B)``, and of messages the samples ``(B,)``; bool.

    A message is lost too where its source or its destination is.
    """

    devices: Tensor
    messages: Mapping[Message, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lost: Collection[int], num_devices: int, batch: int, device: torch.device | None = None) -> Self:
        """The same devices in every sample."""
        ranks = torch.tensor([rank in lost for rank in range(num_devices)], device=device)
        return cls(ranks[:, None].expand(num_devices, batch))

    def kept(self, rank: int, x_BCHW: Tensor) -> Tensor | None:
        """Of ``(B, ...)`` the samples in which the device lives; None without any."""
        rows = self._rows[rank]
        return _take(x_BCHW, rows) if len(rows) else None

    def arrived(self, message: Message, sent: Tensor) -> Arrived:
        """A message, of all that its source computes, as its destination gets it."""
        _, source, destination = message
        samples = self._samples(message)
        return self._places[destination][samples], _take(sent, self._places[source][samples])

    def mean_logits(self, reader: int, logits: Mapping[int, Tensor]) -> Tensor:
        """``(B, K)``: of each sample the mean of the logits that came to the reader; where it is lost, of all others.

        Then the client asks the others itself, and no message on the way to the reader counts.
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
        """Raise :class:`PlanError` where nobody is left to answer a sample."""
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
        """Of each device, the samples in which it lives."""
        return [alive.nonzero().flatten() for alive in self._alive]

    @cached_property
    def _places(self) -> Tensor:
        """``(N, B)``: where each sample stands among those of a device."""
        return self._alive.cumsum(1) - 1


class _RowOperations:
    """Merges of what arrived for some samples."""

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
    """A merge of what came; ``weights`` are those of its messages, where the rule is learned."""
    return MERGERS[rule].merge(_OPERATIONS, own_BCHW, received, weights)


def _take(x_BCHW: Tensor, rows: Tensor) -> Tensor:
    """These rows in the layout of ``x``, the gradient too, which ``index_select`` by itself does not keep."""
    if x_BCHW.is_contiguous(memory_format=torch.channels_last):
        return x_BCHW.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return x_BCHW.index_select(0, rows)


def _add_rows(whole: Tensor, rows: Tensor, prefix: Tensor) -> Tensor:
    channels, prefix = prefix.shape[1], prefix.to(whole.dtype)
    if channels == whole.shape[1]:
        return whole.index_add(0, rows, prefix)
    return torch.cat((whole[:, :channels].index_add(0, rows, prefix), whole[:, channels:]), dim=1)
