"""A canonical key for plans, independent of names: two candidates with the same key are the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from itertools import count

from sepnas.plan.plan import Plan, Port, Segment
from sepnas.plan.shapes import Range, Shape
from sepnas.plan.steps import Merge, Recv, Send, Slice, Step
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan


def plan_key(plan: Plan) -> str:
    """A hash of the devices' steps: 32 hexadecimal digits, equal for plans that differ only in names.

    Tensors, segments and tags are renumbered in order of first mention by the steps.
    """
    tags = _numbers()
    told = [text for port in plan.outputs for text in _describe_port(port)]
    for program, segments, shapes in zip(plan.programs, plan.segments, plan.shapes, strict=True):
        told.append(f"[{', '.join(_describe(program, segments, shapes, tags))}]")
    return hashlib.sha256(f"[{', '.join(told)}]".encode()).hexdigest()[:32]


def named_plan_key(network: Architecture, policy: str) -> str:
    """The key of a network under a named policy."""
    named = named_policy(policy, network.num_devices, network.depth, network.backbone)
    return plan_key(build_plan(network.with_policy(named)))


def _describe(
    program: Iterable[Step], segments: Mapping[str, Segment], shapes: Mapping[str, Shape], tags: dict[Hashable, str]
) -> list[str]:
    """A device's steps with names replaced by numbers; ``tags`` maps the tags mentioned so far.

    Each step is formatted like the ``repr`` of a tuple; building the tuples first would take twice as long.
    """
    found: list[str] = []
    names = _numbers()
    for step in program:
        if isinstance(step, Send):
            wire = f"{step.wire}, learned" if step.scale else step.wire
            what = _sent(step.region.ranges, wire, step.to)
            found.append(f"('send', {names[step.tensor]}, {what}, {tags[step.tag]})")
        elif isinstance(step, Recv):
            shape = _shape(shapes[step.tensor])
            found.append(f"('recv', {tags[step.tag]}, {step.source}, {names[step.tensor]}, {shape})")
        elif isinstance(step, Slice):
            found.append(f"('slice', {names[step.tensor]}, {step.region}, {names[step.output]})")
        else:
            inputs = ", ".join([names[tensor] for tensor in step.inputs])
            if isinstance(step, Merge):
                place = "" if step.axis == "C" and not step.offsets else f", {step.axis!r}, {step.offsets}"
                found.append(f"('merge', '{step.kind}', [{inputs}], {names[step.output]}{place})")
            else:
                work = _work(segments[step.segment])
                made = ", ".join([f"{names[tensor]}, {_shape(shapes[tensor])}" for tensor in step.outputs])
                found.append(f"('compute', {work}, [{inputs}], {made})")
    return found


def _describe_port(port: Port) -> list[str]:
    """The devices that answer and the shape of the output; for several pieces also the region of each."""
    regions = [str(piece.region) for piece in port.pieces] if len(port.pieces) > 1 else []
    return [*(str(piece.device) for piece in port.pieces), _shape(port.shape), *regions]


def _numbers() -> dict[Hashable, str]:
    """A mapping that numbers its keys from 0 in order of first access."""
    return defaultdict(map(str, count()).__next__)


# Cached: all plans of a search consist of the same few pieces.


def _shape(shape: Shape) -> str:
    return _sides(shape.dims)


@lru_cache(maxsize=1 << 12)
def _sides(dims: tuple[int, ...]) -> str:
    return repr(
        dims + (1,) * (3 - len(dims))
    )  # a vector counts as channels x 1 x 1, for compatibility with keys in existing files


@lru_cache(maxsize=1 << 12)
def _sent(ranges: tuple[Range, ...], wire: str, to: int) -> str:
    # past channels and rows, ranges from 0 are omitted: the receiver's shape gives their end
    told = [*ranges[:2], *((0, 1) for _ in range(2 - len(ranges))), *(each for each in ranges[2:] if each[0])]
    return f"{', '.join(map(str, told))}, {wire!r}, {to}"


@lru_cache(maxsize=1 << 12)
def _work(segment: Segment) -> str:
    s = segment
    return repr((s.layers, s.flops, s.num_kernels, s.weight_bytes, s.activation_bytes))
