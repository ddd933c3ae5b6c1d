"""Liveness: what cannot reach the answer is neither sent nor computed.

With one read-out device the last exchanges of the published policies are partly dead; dropping them leaves
the answer as it is, bit for bit. This works on any plan; ``lower(architecture, live=True)`` writes none of it in the
first place, which is what a search does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from sepnas.plan.steps import CLIENT, Compute, Merge, Plan, Recv, Segment, Send, Step


def prune(plan: Plan) -> Plan:
    """The same plan without dead steps; computations that then follow each other become one segment."""
    live = _live_steps(plan)
    programs, segments, shapes = [], [], []
    for rank, program in enumerate(plan.programs):
        steps, used, known = program, plan.segments[rank], plan.shapes[rank]
        if not all(live[rank]):
            kept = [step for step, is_live in zip(program, live[rank], strict=True) if is_live]
            steps, used = _join_segments(kept, used)
            known = {name: known[name] for name in _tensors(steps)}
        programs.append(steps)
        segments.append(used)
        shapes.append(known)
    return Plan(tuple(programs), tuple(segments), tuple(shapes), plan.reader, plan.answer)


def devices_used(plan: Plan) -> tuple[int, ...]:
    """The ranks that do any work that the answer needs, in order; the plan may be pruned already, or not."""
    return tuple(rank for rank, live in enumerate(_live_steps(plan)) if any(live))


def _tensors(steps: tuple[Step, ...]) -> list[str]:
    """The names that a program gives to tensors."""
    return [step.tensor if isinstance(step, Recv) else step.output for step in steps if not isinstance(step, Send)]


def _live_steps(plan: Plan) -> list[list[bool]]:
    """For each rank and step whether the answer depends on it: walked backwards from the sends to the client."""
    producer: list[dict[str, int]] = []
    sender: dict[int, tuple[int, int]] = {}
    todo: list[tuple[int, int]] = []
    for rank, program in enumerate(plan.programs):
        made: dict[str, int] = {}
        for index, step in enumerate(program):
            if isinstance(step, Send):
                sender[step.tag] = (rank, index)
                if step.to == CLIENT:
                    todo.append((rank, index))
            else:
                made[step.tensor if isinstance(step, Recv) else step.output] = index
        producer.append(made)
    live = [[False] * len(program) for program in plan.programs]
    while todo:
        rank, index = todo.pop()
        if live[rank][index]:
            continue
        live[rank][index] = True
        step = plan.programs[rank][index]
        if isinstance(step, Recv):
            if step.source != CLIENT:
                todo.append(sender[step.tag])
        elif isinstance(step, Send):
            todo.append((rank, producer[rank][step.tensor]))
        else:
            made = producer[rank]
            todo.extend((rank, made[name]) for name in step.inputs)
    return live


def _join_segments(
    program: list[Step], segments: Mapping[str, Segment]
) -> tuple[tuple[Step, ...], Mapping[str, Segment]]:
    """Make one computation of two that follow each other when nobody else reads what lies between."""
    readers: Counter[str] | None = None
    steps: list[Step] = []
    used: dict[str, Segment] = {}
    last: Step | None = None
    for step in program:
        if isinstance(step, Compute):
            segment = segments[step.segment]
            if isinstance(last, Compute) and step.inputs == (last.output,):
                readers = _count_readers(program) if readers is None else readers
                if readers[last.output] == 1:
                    segment = _joined(used.pop(last.segment), segment)
                    steps.pop()
                    step = Compute(segment.name, last.inputs, step.output)
            used[segment.name] = segment
        steps.append(step)
        last = step
    return tuple(steps), used


def _count_readers(program: list[Step]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for step in program:
        if isinstance(step, Compute | Merge):
            counts.update(step.inputs)
        elif isinstance(step, Send):
            counts[step.tensor] += 1
    return counts


@lru_cache(maxsize=4096)
def _joined(first: Segment, second: Segment) -> Segment:
    return Segment(
        name=f"{first.layers[0]}-{second.layers[-1]}",
        device=first.device,
        layers=first.layers + second.layers,
        flops=first.flops + second.flops,
        num_kernels=first.num_kernels + second.num_kernels,
        weight_bytes=first.weight_bytes + second.weight_bytes,
        activation_bytes=max(first.activation_bytes, second.activation_bytes),
        operators=first.operators + second.operators,
    )
