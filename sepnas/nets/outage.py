"""The result of a plan when devices and messages are lost: the arithmetic of a degraded session.

Each sample of a batch may lose different devices. A lost device sends nothing and contributes nothing to the answer.
Merges use the messages that arrived: ``mean`` averages over them, other rules drop the missing terms. A device's
tensors hold rows only for the samples in which it is alive. In training, its batch norms therefore see the same
mixture of complete and degraded inputs as the device itself, and no sample without it. If a device that answers is
lost, the answer is the mean of the output's fallbacks.
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
from sepnas.nets.exchange import convolved, joined_pieces
from sepnas.plan.merge_rules import MERGERS_BY_KIND
from sepnas.plan.merges import axis_of
from sepnas.plan.plan import Plan, Port
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge, Recv

Arrived: TypeAlias = tuple[Tensor, Tensor]
"""Row indices of the receiver, and the values received for each row."""


@dataclass(frozen=True, eq=False)
class Outage:
    """The losses in a batch, as boolean masks: ``devices`` ``(N, B)``, and ``(B,)`` for each message, by tag.

    A message is also lost where its source or destination is lost.
    """

    devices: Tensor
    messages: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lost: Collection[int], num_devices: int, batch: int, device: torch.device | None = None) -> Self:
        """An outage that loses the same devices in every sample."""
        ranks = torch.tensor([rank in lost for rank in range(num_devices)], device=device)
        return cls(ranks[:, None].expand(num_devices, batch))

    def takes_part(self, rank: int) -> bool:
        """Whether the device is alive in any sample."""
        return len(self._rows[rank]) > 0

    def kept(self, rank: int, x: Tensor) -> Tensor:
        """The rows of ``(B, ...)`` in which the device is alive."""
        return _take(x, self._rows[rank])

    def arrived(self, rank: int, step: Recv, sent: Tensor) -> Arrived:
        """The part of the source's tensor ``sent`` that reaches device ``rank``."""
        came = self._alive[step.source] & self._alive[rank]
        if step.tag in self.messages:
            came = came & ~self.messages[step.tag]
        samples = came.nonzero().flatten()
        return self._places[rank][samples], _take(sent, self._places[step.source][samples])

    def needed(self, rank: int, step: Recv, sent: Tensor | None) -> Tensor:
        """As :meth:`arrived`, for a message that the device cannot do without; :class:`PlanError` if it is lost."""
        rows, values = (None, None) if sent is None else self.arrived(rank, step, sent)
        if values is None or rows is None or len(rows) < len(self._rows[rank]):
            raise PlanError(f"device {rank} cannot do without message {step.tag} from device {step.source}")
        return values

    def answer(self, port: Port, sent: Mapping[int, Tensor]) -> Tensor:
        """``(B, *shape)``: an output, of the tensors ``sent`` by tag.

        Where a device that answers is lost, the client asks for the fallbacks: their mean is the answer. Lost messages
        do not matter then.
        """
        devices = [piece.device for piece in port.pieces]
        answering = torch.stack([self._alive[device] for device in devices]).all(0)
        samples = answering.nonzero().flatten()
        values: list[tuple[Tensor, Tensor]] = []
        if len(samples):
            pieces = [sent[piece.tag][self._places[piece.device][samples]] for piece in port.pieces]
            values.append((samples, joined_pieces(port, pieces)))
        for fallback in sorted(port.fallbacks, key=lambda piece: piece.device):
            samples = (~answering & self._alive[fallback.device]).nonzero().flatten()
            if len(samples):
                values.append((samples, sent[fallback.tag][self._places[fallback.device][samples]]))
        first, num_samples = values[0][1], self.devices.shape[1]
        total, counts = first.new_zeros(num_samples, *first.shape[1:]), first.new_zeros(num_samples)
        for samples, each in values:
            total = total.index_add(0, samples, each)
            counts[samples] += 1
        return total / counts.view(-1, *[1] * (first.dim() - 1))

    def check(self, plan: Plan) -> None:
        """Raise :class:`PlanError` if a sample has no device left to answer."""
        for port in plan.outputs:
            answering = {piece.device for piece in port.pieces}
            if not port.fallbacks:
                for rank in sorted(answering):
                    if bool(self.devices[rank].any()):
                        raise PlanError(f"device {rank} alone answers with '{port.name}', so it cannot be lost")
            lost = torch.stack([self.devices[rank] for rank in answering]).any(0)
            for piece in port.fallbacks:
                lost = lost & self.devices[piece.device]
            if bool(lost.any()):
                able = len(answering.union(piece.device for piece in port.fallbacks))
                raise PlanError(f"all {able} devices are lost, so nobody answers; one must be left")

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
    """Merges of messages that arrived for some of the samples, along axis ``place``."""

    def __init__(self, place: int) -> None:
        self.place = place

    def add(self, own: Tensor, parts: Sequence[Arrived]) -> Tensor:
        for rows, part in parts:
            own = self._add_rows(own, rows, part.to(own.dtype))
        return own

    def minus(self, part: Arrived, own: Tensor) -> Arrived:
        rows, message = part
        return rows, message - _take(own.narrow(self.place, 0, message.shape[self.place]), rows)

    def times(self, weight: Tensor, part: Arrived) -> Arrived:
        rows, message = part
        return rows, weight * message

    def divide_by_counts(self, total: Tensor, parts: Sequence[Arrived]) -> Tensor:
        counts = total.new_ones(len(total), total.shape[self.place])
        for rows, message in parts:
            counts[rows, : message.shape[self.place]] += 1
        shape = [size if axis in (0, self.place) else 1 for axis, size in enumerate(total.shape)]
        return total / counts.view(shape)

    def convolve(self, own: Tensor, parts: Sequence[Arrived], weights: Sequence[Tensor]) -> Tensor:
        for (rows, message), weight in zip(parts, weights, strict=True):
            own = own.index_add(0, rows, convolved(message, weight[:, : message.shape[1]]).to(own.dtype))
        return own

    def _add_rows(self, whole: Tensor, rows: Tensor, prefix: Tensor) -> Tensor:
        size = prefix.shape[self.place]
        rest = whole.shape[self.place] - size
        if not rest:
            return whole.index_add(0, rows, prefix)
        sums = whole.narrow(self.place, 0, size).index_add(0, rows, prefix)
        return torch.cat((sums, whole.narrow(self.place, size, rest)), self.place)


def merge_arrived(
    step: Merge, shape: Shape, own: Tensor, received: Sequence[Tensor | Arrived], weights: Sequence[Tensor] = ()
) -> Tensor:
    """The output of an optional merge of what is there: whole tensors, and messages that arrived for some samples.

    ``weights`` holds one scalar, or one matrix, for each of them if the rule is learned.
    """
    parts = [(torch.arange(len(x), device=x.device), x) if isinstance(x, Tensor) else x for x in received]
    return MERGERS_BY_KIND[step.kind].merge(_RowOperations(axis_of(step, shape)), own, parts, weights)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Select rows and keep the memory layout of ``x``, also for the gradient; plain ``index_select`` does not."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return x.index_select(0, rows)
