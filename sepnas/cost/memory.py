"""How much memory a device needs at most for its part of a plan."""

from __future__ import annotations

from sepnas.plan.steps import Compute, Merge, Plan
from sepnas.plan.wire import MAX_SAMPLE_HEADER_BYTES
from sepnas.separable.layers import FLOAT_BYTES


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """An upper bound on weights, tensors that are alive at once, and buffers of messages, in bytes.

    A tensor lives until the last step that uses it, as in the runtime. A message that is to come has a buffer from
    the start, for its sender may be ahead; it is counted in fp32 and becomes the tensor. Not counted: the engine
    itself, what a conversion or a merge needs for a moment, and copies that wait in sockets.
    """
    weight_bytes = sum([segment.weight_bytes for segment in plan.segments[rank].values()])
    known = plan.tensors_bytes
    sample_bytes = tensors_bytes(plan, rank) if known is None else known[rank]
    # a quantised message may have a longer header than values
    header_bytes = MAX_SAMPLE_HEADER_BYTES * len(plan.programs[rank])
    return weight_bytes + batch * (sample_bytes + header_bytes)


def tensors_bytes(plan: Plan, rank: int) -> int:
    """What tensors and buffers of one sample take at most, in any plan. Walked backwards: a last use comes first."""
    segments, shapes = plan.segments[rank], plan.shapes[rank]
    alive: dict[str, int] = {}
    held = most = 0
    for step in reversed(plan.programs[rank]):
        if isinstance(step, Compute):  # its output is among the segment's activations
            output, names, needed = step.output, step.inputs, segments[step.segment].activation_bytes
        elif isinstance(step, Merge):
            output, names = step.output, step.inputs
            needed = FLOAT_BYTES * shapes[output].num_values
        else:  # a buffer is there from the start: a received tensor is never let go
            name = step.tensor
            if name not in alive:
                alive[name] = nbytes = FLOAT_BYTES * shapes[name].num_values
                held += nbytes
            continue
        if output in alive:
            held -= alive.pop(output)
        for name in names:
            if name not in alive:
                alive[name] = nbytes = FLOAT_BYTES * shapes[name].num_values
                held += nbytes
        if held + needed > most:
            most = held + needed
    return max(most, held)
