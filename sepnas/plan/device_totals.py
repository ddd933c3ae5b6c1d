"""The totals of a device: what it computes and stores, in its segments and in merges that convolve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from sepnas.plan.merges import MERGE_KINDS, merge_weights_dims
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import FLOAT_BYTES, Shape
from sepnas.plan.steps import Merge, Step

_CONVOLVING = frozenset(name for name, kind in MERGE_KINDS.items() if kind.convolves)


def is_convolving(step: Step) -> bool:
    """Whether a step convolves what arrives."""
    return isinstance(step, Merge) and step.kind in _CONVOLVING and len(step.inputs) > 1


def convolution_of(step: Merge, shapes: Mapping[str, Shape]) -> Operator:
    """The convolution of a merge that convolves, as one operator over the channels of all messages."""
    return _operator(sum(shapes[name].dims[0] for name in step.inputs[1:]), shapes[step.output].dims)


def convolutions_of(plan: Plan, rank: int) -> list[Operator]:
    """The convolutions of a device's merges, in the order of its program."""
    return [convolution_of(step, plan.shapes[rank]) for step in _convolving_merges(plan, rank)]


def _convolving_merges(plan: Plan, rank: int) -> list[Merge]:
    merges = [step for step in plan.programs[rank] if isinstance(step, Merge)]
    return [step for step in merges if is_convolving(step)]


def macs_of_device(plan: Plan, rank: int) -> int:
    """The multiply-accumulates of a device for one sample."""
    segments = plan.segments[rank].values()
    return sum([each.flops for each in segments]) // 2 + sum([each.macs for each in convolutions_of(plan, rank)])


def weight_bytes_of_device(plan: Plan, rank: int) -> int:
    """The bytes of a device's weights in fp32; single numbers (scales, weights of a mean) are not counted.

    The matrices of a merge count as they are stored, all as wide as the widest.
    """
    segments, shapes = plan.segments[rank].values(), plan.shapes[rank]
    merged = sum([math.prod(merge_weights_dims(step, shapes)) for step in _convolving_merges(plan, rank)])
    return sum([each.weight_bytes for each in segments]) + FLOAT_BYTES * merged


@lru_cache(maxsize=1 << 12)
def _operator(channels: int, dims: tuple[int, ...]) -> Operator:
    height, *others = *dims[1:], 1
    return Operator("conv", channels, dims[0], height=height, width=math.prod(others))
