"""How much memory a device needs at most for its part of a plan."""

from __future__ import annotations

from collections.abc import Mapping

from sepnas.plan.steps import Compute, Merge, Plan, Segment, Shape, Step
from sepnas.spec.wire import AFFINE_HEADER_BYTES

FLOAT_BYTES = 4


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """An upper bound on weights, tensors that are alive at once, and buffers of messages, in bytes.

    A tensor lives until the last step that uses it, as in the runtime. A message that is to come has a buffer from
    the start, for its sender may be ahead; it is counted in fp32 and becomes the tensor. Not counted: the engine
    itself, what a conversion or a merge needs for a moment, and copies that wait in sockets.
    """
    program, segments, shapes = plan.programs[rank], plan.segments[rank], plan.shapes[rank]
    weight_bytes = sum([segment.weight_bytes for segment in segments.values()])
    header_bytes = AFFINE_HEADER_BYTES * len(program)  # of quantised messages, which may hold a value or two
    return weight_bytes + batch * (_tensors_bytes(program, segments, shapes) + header_bytes)


def _tensors_bytes(program: tuple[Step, ...], segments: Mapping[str, Segment], shapes: Mapping[str, Shape]) -> int:
    """What tensors and buffers of one sample take at most. Walked backwards: there a last use comes first."""
    alive: dict[str, int] = {}
    held = most = 0
    for step in reversed(program):
        if isinstance(step, Compute):
            if step.output in alive:  # it is among the segment's activations
                held -= alive.pop(step.output)
            names, needed = step.inputs, segments[step.segment].activation_bytes
        elif isinstance(step, Merge):
            needed = FLOAT_BYTES * shapes[step.output].num_values
            if step.output in alive:
                held -= alive.pop(step.output)
            names = step.inputs
        else:  # a buffer is there from the start: a received tensor is never let go
            names, needed = (step.tensor,), 0
        for name in names:
            if name not in alive:
                alive[name] = nbytes = FLOAT_BYTES * shapes[name].num_values
                held += nbytes
        if held + needed > most:
            most = held + needed
    return most
