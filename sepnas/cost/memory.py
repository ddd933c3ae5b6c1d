"""Peak memory of a device for its part of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.plan.device_totals import weight_bytes_of_device
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import FLOAT_BYTES
from sepnas.plan.steps import Compute, Merge, Recv, Slice, Step
from sepnas.plan.wire import MAX_SAMPLE_HEADER_BYTES


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """An upper bound on weights, live tensors and message buffers, in bytes.

    A tensor lives until the last step that uses it, as in the runtime. Each message to be received has a buffer from
    the start, because its sender may be ahead; the buffer is counted in fp32 and becomes the tensor. Not counted: the
    engine itself, temporary memory of conversions and merges, and copies in socket buffers.
    """
    weight_bytes = weight_bytes_of_device(plan, rank)
    known = plan.tensors_bytes
    sample_bytes = tensors_bytes(plan, rank) if known is None else known[rank]
    # a quantised message may have a header longer than its values
    header_bytes = MAX_SAMPLE_HEADER_BYTES * len(plan.programs[rank])
    return weight_bytes + batch * (sample_bytes + header_bytes)


def tensors_bytes(plan: Plan, rank: int) -> int:
    """Peak bytes of tensors and buffers for one sample, for any plan. Walks backwards, so a last use comes first.

    A slice is a view: while it is used, the tensor that it is a view of is kept.
    """
    segments, shapes, program = plan.segments[rank], plan.shapes[rank], plan.programs[rank]
    whole = _whole_tensors(program)
    alive: dict[str, int] = {}
    held = most = 0
    for step in reversed(program):
        if isinstance(step, Slice):
            continue
        if isinstance(step, Compute):  # its outputs are counted in the segment's activations
            needed = segments[step.segment].activation_bytes
        else:
            needed = FLOAT_BYTES * shapes[step.output].num_values if isinstance(step, Merge) else 0
        if not isinstance(step, Recv):  # a received tensor's buffer exists from the start: it is never released
            for name in step.writes:
                held -= alive.pop(name, 0)
        for name in (*step.reads, *(step.writes if isinstance(step, Recv) else ())):
            root = whole.get(name, name)
            if root not in alive:
                alive[root] = nbytes = FLOAT_BYTES * shapes[root].num_values
                held += nbytes
        if held + needed > most:
            most = held + needed
    return max(most, held)


def _whole_tensors(program: Sequence[Step]) -> dict[str, str]:
    """The underlying tensor of each slice, by name."""
    whole: dict[str, str] = {}
    for step in program:
        if isinstance(step, Slice):
            whole[step.output] = whole.get(step.tensor, step.tensor)
    return whole
