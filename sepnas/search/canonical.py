"""When two candidates are one: a key of the plan that does not hang on how its parts happen to be called."""

from __future__ import annotations

import hashlib
from typing import Any

from sepnas.plan.build import build_plan
from sepnas.plan.steps import Compute, Merge, Plan, Recv, Send, Shape, Step
from sepnas.spec.architecture import Architecture, named_policy


def plan_key(plan: Plan) -> str:
    """A hash of what the devices do: 32 hexadecimal digits, the same for two plans that differ in names only.

    Tensors, segments and tags are numbered anew in the order in which the steps mention them.
    """
    tags: dict[int, int] = {}
    told: list[Any] = [plan.reader, _sides(plan.answer)]
    for rank, program in enumerate(plan.programs):
        names: dict[str, int] = {}
        told.append([_describe(plan, rank, step, names, tags) for step in program])
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def named_plan_key(network: Architecture, policy: str) -> str:
    """The key of a network under a named policy."""
    named = named_policy(policy, network.num_devices, network.depth)
    return plan_key(build_plan(network.with_policy(named)))


def _describe(plan: Plan, rank: int, step: Step, names: dict[str, int], tags: dict[int, int]) -> tuple[Any, ...]:
    """A step in numbers only."""
    if isinstance(step, Send):
        tensor, tag = names.setdefault(step.tensor, len(names)), tags.setdefault(step.tag, len(tags))
        return ("send", tensor, step.region.channels, step.region.rows, step.wire, step.to, tag)
    if isinstance(step, Recv):
        tensor, tag = names.setdefault(step.tensor, len(names)), tags.setdefault(step.tag, len(tags))
        return ("recv", tag, step.source, tensor, _sides(plan.shapes[rank][step.tensor]))
    inputs = [names.setdefault(tensor, len(names)) for tensor in step.inputs]
    output = names.setdefault(step.output, len(names))
    if isinstance(step, Merge):
        return ("merge", step.kind, inputs, output)
    return ("compute", _work(plan, rank, step), inputs, output, _sides(plan.shapes[rank][step.output]))


def _work(plan: Plan, rank: int, step: Compute) -> tuple[Any, ...]:
    segment = plan.segments[rank][step.segment]
    return (segment.layers, segment.flops, segment.num_kernels, segment.weight_bytes, segment.activation_bytes)


def _sides(shape: Shape) -> tuple[int, int, int]:
    return (shape.channels, shape.height, shape.width)
