"""Differentiable versions of the runtime's arithmetic: wire formats and merges.

The runtime repeats every fp32 operation in numpy (``sepnas.runtime.tensors.codec``), so the whole network and the
devices compute the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from sepnas.plan.merge_rules import MERGERS, MergeRule
from sepnas.plan.wire import ENCODINGS, LEVELS, UNCONVERTED, WireFormat

_FLOATS: dict[WireFormat, torch.dtype] = {
    name: getattr(torch, f"float{encoding.bits}") for name, encoding in ENCODINGS.items() if name not in LEVELS
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


def through_wire(x_BCHW: Tensor, wire: WireFormat, log_step: Tensor | None = None) -> Tensor:
    """``x`` as the receiver decodes it; quantised formats use one minimum and step per sample, or a learned step."""
    if wire == UNCONVERTED:
        return x_BCHW
    if log_step is not None:
        quantised: Tensor = _LearnedStep.apply(x_BCHW, log_step, LEVELS[wire])  # type: ignore[no-untyped-call]
        return quantised
    received: Tensor = _StraightThrough.apply(x_BCHW, wire)  # type: ignore[no-untyped-call]
    return received


class _Operations:
    """Merges of whole batches."""

    def add(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        for part in parts:
            own = _add_prefix(own, part)
        return own

    def minus(self, part: Tensor, own: Tensor) -> Tensor:
        return part - own[:, : part.shape[1]]

    def times(self, weight: Tensor, part: Tensor) -> Tensor:
        return weight * part

    def divide_by_counts(self, total: Tensor, parts: Sequence[Tensor]) -> Tensor:
        counts = [1] * total.shape[1]
        for part in parts:
            for channel in range(part.shape[1]):
                counts[channel] += 1
        if min(counts) == max(counts):
            return total / counts[0]
        shape = (1, -1) + (1,) * (total.dim() - 2)
        return total / torch.tensor(counts, dtype=total.dtype, device=total.device).view(shape)


_OPERATIONS = _Operations()


def merge(rule: MergeRule, own_BCHW: Tensor, received: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """Merge a device's own tensor with messages that hold its first channels, by a rule of ``merge_rules``.

    ``weights`` holds one scalar per message for a learned rule.
    """
    return MERGERS[rule].merge(_OPERATIONS, own_BCHW, received, weights)


def merge_mean(own_BCHW: Tensor, received: Sequence[Tensor]) -> Tensor:
    """The mean, per channel, of the device's own tensor and the messages that hold the channel."""
    return merge("mean", own_BCHW, received)


def _add_prefix(whole: Tensor, prefix: Tensor) -> Tensor:
    channels = prefix.shape[1]
    if channels == whole.shape[1]:
        return whole + prefix
    return torch.cat((whole[:, :channels] + prefix, whole[:, channels:]), dim=1)
