"""When two candidates are one: a key of the plan that does not hang on how its parts happen to be called."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from itertools import count

from sepnas.plan.steps import Merge, Plan, Recv, Segment, Send, Shape, Step
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan


def plan_key(plan: Plan) -> str:
    """A hash of what the devices do: 32 hexadecimal digits, the same for two plans that differ in names only.

    Tensors, segments and tags are numbered anew in the order in which the steps mention them.
    """
    tags = _numbers()
    told = [str(plan.reader), _shape(plan.answer)]
    for program, segments, shapes in zip(plan.programs, plan.segments, plan.shapes, strict=True):
        told.append(f"[{', '.join(_describe(program, segments, shapes, tags))}]")
    return hashlib.sha256(f"[{', '.join(told)}]".encode()).hexdigest()[:32]


def named_plan_key(network: Architecture, policy: str) -> str:
    """The key of a network under a named policy."""
    named = named_policy(policy, network.num_devices, network.depth)
    return plan_key(build_plan(network.with_policy(named)))


def _describe(
    program: Iterable[Step], segments: Mapping[str, Segment], shapes: Mapping[str, Shape], tags: dict[Hashable, str]
) -> list[str]:
    """A device's steps in numbers only; ``tags`` are those that were mentioned so far.

    Each step is written as Python writes a tuple; to make the tuples first would take twice the time.
    """
    found: list[str] = []
    names = _numbers()
    for step in program:
        if isinstance(step, Send):
            region = step.region
            wire = f"{step.wire}, learned" if step.scale else step.wire
            what = _sent(region.channels, region.rows, wire, step.to)
            found.append(f"('send', {names[step.tensor]}, {what}, {tags[step.tag]})")
        elif isinstance(step, Recv):
            shape = _shape(shapes[step.tensor])
            found.append(f"('recv', {tags[step.tag]}, {step.source}, {names[step.tensor]}, {shape})")
        else:
            inputs = ", ".join([names[tensor] for tensor in step.inputs])
            if isinstance(step, Merge):
                found.append(f"('merge', '{step.kind}', [{inputs}], {names[step.output]})")
            else:
                work, shape = _work(segments[step.segment]), _shape(shapes[step.output])
                found.append(f"('compute', {work}, [{inputs}], {names[step.output]}, {shape})")
    return found


def _numbers() -> dict[Hashable, str]:
    """Numbers what it is asked for, from 0 in the order of asking."""
    return defaultdict(map(str, count()).__next__)


# The same few pieces stand in all plans of a search.


def _shape(shape: Shape) -> str:
    return _sides(shape.channels, shape.height, shape.width)


@lru_cache(maxsize=1 << 12)
def _sides(*sides: int) -> str:
    return repr(sides)


@lru_cache(maxsize=1 << 12)
def _sent(channels: tuple[int, int], rows: tuple[int, int], wire: str, to: int) -> str:
    return f"{channels}, {rows}, {wire!r}, {to}"


@lru_cache(maxsize=1 << 12)
def _work(segment: Segment) -> str:
    s = segment
    return repr((s.layers, s.flops, s.num_kernels, s.weight_bytes, s.activation_bytes))
