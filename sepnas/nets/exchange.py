"""Differentiable versions of the runtime's arithmetic: wire formats and merges.

The runtime repeats every fp32 operation in numpy (``sepnas.runtime.tensors.codec``), so the whole network and the
devices compute the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from sepnas.plan.merges import MERGE_KINDS, axis_of, placed
from sepnas.plan.plan import Port
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge
from sepnas.plan.wire import ENCODINGS, IMAGE_FORMATS, LEVELS, UNCONVERTED, WIRE_FORMATS, AnyFormat, WireFormat

_FLOATS: dict[WireFormat, torch.dtype] = {
    name: getattr(torch, f"float{ENCODINGS[name].bits}") for name in WIRE_FORMATS if name not in LEVELS
}
_FINITE: dict[WireFormat, float] = {name: torch.finfo(dtype).max for name, dtype in _FLOATS.items()}


class _StraightThrough(torch.autograd.Function):
    """Encode and decode, with the straight-through gradient (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, wire: WireFormat) -> Tensor:
        return _decode_encoded(x.float(), wire).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _decode_encoded(x_BCHW: Tensor, wire: WireFormat) -> Tensor:
    if wire in _FLOATS:
        return x_BCHW.clamp(-_FINITE[wire], _FINITE[wire]).to(_FLOATS[wire]).float()
    levels = LEVELS[wire]
    low, high = x_BCHW.flatten(1).aminmax(dim=1)
    step = (high - low) / levels
    places = (-1,) + (1,) * (x_BCHW.dim() - 1)
    low, step = low.view(places), step.view(places)
    divisor = torch.where(step == 0, torch.ones_like(step), step)
    level = ((x_BCHW - low) / divisor).round().clamp(0, levels)
    return low + level * step


class _LearnedStep(torch.autograd.Function):
    """Quantisation with a learned step, parametrised by its logarithm.

    The gradients are those of arXiv 1902.08153 (equations 3 and 5, scaled by 1 / sqrt(values * levels)). The logarithm
    receives the step's gradient divided by the step, not its true derivative (the gradient times the step). An update
    then changes the step by the same relative amount as plain descent on the step, and the step stays positive.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, log_step: Tensor, levels: int) -> Tensor:
        step = log_step.exp()
        ctx.save_for_backward(x, step)
        ctx.levels = levels  # type: ignore[attr-defined]
        return through_levels(x.float(), step, levels).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, step = ctx.saved_tensors  # type: ignore[attr-defined]
        levels: int = ctx.levels  # type: ignore[attr-defined]
        ratio, gradient = x.float() / step, gradients[0]
        inside = (ratio >= 0) & (ratio <= levels)
        clamped = _levels(ratio, levels)
        slope = torch.where(inside, clamped.round() - clamped, clamped)
        scaled = (gradient.float() * slope).sum() / (step * math.sqrt(x[0].numel() * levels))
        return gradient * inside, scaled, None


def through_levels(x: Tensor, step: Tensor, highest: int) -> Tensor:
    """``x`` rounded to whole steps and clamped to levels 0 to ``highest``."""
    return _levels((x / step).round(), highest) * step


def _levels(ratio: Tensor, highest: int) -> Tensor:
    """Clamp to 0 and the highest level; NaN becomes 0."""
    return torch.fmax(ratio, ratio.new_zeros(())).clamp(max=highest)


def through_wire(x_BCHW: Tensor, wire: AnyFormat, log_step: Tensor | None = None) -> Tensor:
    """``x`` as the receiver decodes it; quantised formats use one minimum and step per sample, or a learned step.

    An image is normalised here already; its receiver computes the same values from bytes.
    """
    if wire == UNCONVERTED or wire in IMAGE_FORMATS:
        return x_BCHW
    if log_step is not None:
        quantised: Tensor = _LearnedStep.apply(x_BCHW, log_step, LEVELS[wire])  # type: ignore[no-untyped-call]
        return quantised
    received: Tensor = _StraightThrough.apply(x_BCHW, wire)  # type: ignore[no-untyped-call]
    return received


class TensorOperations:
    """The operations of merges on tensors ``(B, *shape)``; prefixes are the first values along axis ``place``."""

    def __init__(self, place: int, dims: tuple[int, ...]) -> None:
        self.place, self.dims = place, dims

    def add(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        for part in parts:
            size = part.shape[self.place]
            rest = own.shape[self.place] - size
            if rest:
                sum_ = own.narrow(self.place, 0, size) + part
                own = torch.cat((sum_, own.narrow(self.place, size, rest)), self.place)
            else:
                own = own + part
        return own

    def minus(self, part: Tensor, own: Tensor) -> Tensor:
        return part - self.prefix(own, part)

    def times(self, weight: Tensor, part: Tensor) -> Tensor:
        return weight * part

    def divide_by_counts(self, total: Tensor, parts: Sequence[Tensor]) -> Tensor:
        size, held = total.shape[self.place], [part.shape[self.place] for part in parts]
        if min(held, default=size) == size:
            return total / (1 + len(held))
        counts = [1 + sum(place < each for each in held) for place in range(size)]
        shape = [-1 if axis == self.place else 1 for axis in range(total.dim())]
        return total / torch.tensor(counts, dtype=total.dtype, device=total.device).view(shape)

    def convolve(self, own: Tensor, parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        if not parts:
            return own
        columns = [weight[:, : part.shape[1]] for part, weight in zip(parts, weights, strict=True)]
        return own + convolved(torch.cat(tuple(parts), 1), torch.cat(columns, 1))

    def greatest(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        for part in parts:
            rest = own.shape[self.place] - part.shape[self.place]
            found = torch.maximum(self.prefix(own, part), part)
            own = (
                torch.cat((found, own.narrow(self.place, part.shape[self.place], rest)), self.place) if rest else found
            )
        return own

    def concat(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat((own, *parts), self.place)

    def assemble(self, own: Tensor, parts: Sequence[Tensor], offsets: Sequence[tuple[int, ...]]) -> Tensor:
        pieces = own, *parts
        differing = [axis for axis, starts in enumerate(zip(*offsets, strict=True)) if len(set(starts)) > 1]
        if len(differing) == 1:  # all along one axis
            [axis] = differing
            order = sorted(range(len(pieces)), key=lambda place: offsets[place][axis])
            return torch.cat([pieces[place] for place in order], 1 + axis)
        kind = reduce(torch.promote_types, [piece.dtype for piece in pieces])
        out = own.new_empty((len(own), *self.dims), dtype=kind)
        for offset, piece in zip(offsets, pieces, strict=True):
            out[placed(offset, piece.shape[1:]).slices] = piece
        return out

    def prefix(self, whole: Tensor, part: Tensor) -> Tensor:
        """The values of ``whole`` that ``part`` holds too."""
        size = part.shape[self.place]
        return whole if size == whole.shape[self.place] else whole.narrow(self.place, 0, size)


def convolved(x_BCHW: Tensor, weight_OC: Tensor) -> Tensor:
    """The 1x1 convolution of ``(B, C, ...)`` with one matrix: ``(B, O, ...)``."""
    if x_BCHW.dim() == 4:
        return functional.conv2d(x_BCHW, weight_OC[:, :, None, None])
    return functional.linear(x_BCHW.movedim(1, -1), weight_OC).movedim(-1, 1)


def merge_tensors(step: Merge, shape: Shape, inputs: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """The output of a merge step, ``(B, *shape.dims)``: :func:`sepnas.plan.merges.merge`, differentiably.

    ``weights`` holds one scalar, or one matrix, for each input after the first if the kind is learned.
    """
    operations = TensorOperations(axis_of(step, shape), shape.dims)
    return MERGE_KINDS[step.kind].apply(operations, step, inputs[0], inputs[1:], weights)


def joined_pieces(port: Port, pieces: Sequence[Tensor]) -> Tensor:
    """An output ``(B, *shape)`` of the tensors of its pieces, in the port's order."""
    if len(pieces) == 1:
        return pieces[0]
    offsets = [tuple([start for start, _ in piece.region.ranges]) for piece in port.pieces]
    return TensorOperations(0, port.shape.dims).assemble(pieces[0], pieces[1:], offsets)
