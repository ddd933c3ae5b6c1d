"""Liveness: what cannot reach the answer is neither sent nor computed.

With one read-out device the last exchanges of the published policies are partly dead; dropping them leaves
the answer as it is, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sepnas.plan.steps import CLIENT, Compute, Merge, Plan, Recv, Segment, Send, Step


def prune(plan: Plan) -> Plan:
    """The same plan without dead steps; computations that then follow each other become one segment."""
    live = _live_steps(plan)
    programs, segments, shapes = [], [], []
    for rank, program in enumerate(plan.programs):
        kept = [step for index, step in enumerate(program) if (rank, index) in live]
        steps, used = _join_segments(kept, plan.segments[rank])
        names = {name for step in steps for name in _tensors(step)}
        programs.append(tuple(steps))
        segments.append(used)
        shapes.append({name: shape for name, shape in plan.shapes[rank].items() if name in names})
    return replace(plan, programs=tuple(programs), segments=tuple(segments), shapes=tuple(shapes))


def _inputs(step: Step) -> tuple[str, ...]:
    if isinstance(step, Compute | Merge):
        return step.inputs
    return (step.tensor,) if isinstance(step, Send) else ()


def _output(step: Step) -> str | None:
    if isinstance(step, Compute | Merge):
        return step.output
    return step.tensor if isinstance(step, Recv) else None


def _tensors(step: Step) -> tuple[str, ...]:
    output = _output(step)
    return _inputs(step) if output is None else (*_inputs(step), output)


def _live_steps(plan: Plan) -> set[tuple[int, int]]:
    """(rank, index) of the steps that the answer depends on, walked backwards from the sends to the client."""
    producer: dict[tuple[int, str], int] = {}
    sender: dict[int, tuple[int, int]] = {}
    todo: list[tuple[int, int]] = []
    for rank, program in enumerate(plan.programs):
        for index, step in enumerate(program):
            output = _output(step)
            if output is not None:
                producer[rank, output] = index
            if isinstance(step, Send):
                sender[step.tag] = (rank, index)
                if step.to == CLIENT:
                    todo.append((rank, index))
    live: set[tuple[int, int]] = set()
    while todo:
        place = todo.pop()
        if place in live:
            continue
        live.add(place)
        rank, index = place
        step = plan.programs[rank][index]
        if isinstance(step, Recv):
            if step.source != CLIENT:
                todo.append(sender[step.tag])
        else:
            todo.extend((rank, producer[rank, name]) for name in _inputs(step))
    return live


def _join_segments(program: list[Step], segments: Mapping[str, Segment]) -> tuple[list[Step], dict[str, Segment]]:
    """Make one computation of two that follow each other when nobody else reads what lies between."""
    readers = Counter(name for step in program for name in _inputs(step))
    steps: list[Step] = []
    used: dict[str, Segment] = {}
    for step in program:
        last = steps[-1] if steps else None
        if not isinstance(step, Compute):
            steps.append(step)
        elif isinstance(last, Compute) and step.inputs == (last.output,) and readers[last.output] == 1:
            steps[-1] = replace(last, output=step.output)
            used[last.segment] = _joined(used[last.segment], segments[step.segment])
        else:
            steps.append(step)
            used[step.segment] = segments[step.segment]
    return steps, used


def _joined(first: Segment, second: Segment) -> Segment:
    return replace(
        first,
        layers=first.layers + second.layers,
        flops=first.flops + second.flops,
        num_kernels=first.num_kernels + second.num_kernels,
        weight_bytes=first.weight_bytes + second.weight_bytes,
        activation_bytes=max(first.activation_bytes, second.activation_bytes),
    )
