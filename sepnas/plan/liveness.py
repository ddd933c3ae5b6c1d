"""Liveness: steps that cannot affect an output are dropped, and inputs cut to the regions that are read.

With one read-out device the last exchanges of the published policies are partly dead; dropping them leaves
the outputs identical, bit for bit. This works on any plan; ``lower(architecture, live=True)``, which a search uses,
never writes dead steps in the first place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from sepnas.plan.input_regions import shrink_inputs
from sepnas.plan.plan import Plan, Port, Segment
from sepnas.plan.steps import CLIENT, Compute, Recv, Send, Step


def prune(plan: Plan) -> Plan:
    """The same plan without dead steps, and without values of inputs that no device reads.

    Computations that become consecutive are joined into one segment.
    """
    live = _live_steps(plan)
    programs, segments, shapes = [], [], []
    for rank, program in enumerate(plan.programs):
        steps, used, known = program, plan.segments[rank], plan.shapes[rank]
        if not all(live[rank]):
            kept = [step for step, is_live in zip(program, live[rank], strict=True) if is_live]
            steps, used = _join_segments(kept, used)
            known = {name: known[name] for step in steps for name in step.writes}
        programs.append(steps)
        segments.append(used)
        shapes.append(known)
    kept_tags = {step.tag for program in programs for step in program if isinstance(step, Send | Recv)}
    pruned = Plan(
        tuple(programs),
        tuple(segments),
        tuple(shapes),
        inputs=tuple(_without_dead(port, kept_tags) for port in plan.inputs),
        outputs=tuple(_without_dead(port, kept_tags) for port in plan.outputs),
        even=plan.even,
    )
    return shrink_inputs(pruned)


def _without_dead(port: Port, tags: set[int]) -> Port:
    """The port without the pieces that are no longer sent."""
    pieces = tuple(piece for piece in port.pieces if piece.tag in tags)
    fallbacks = tuple(piece for piece in port.fallbacks if piece.tag in tags)
    return replace(port, pieces=pieces, fallbacks=fallbacks)


def devices_used(plan: Plan) -> tuple[int, ...]:
    """The ranks whose work an output needs, in order; the plan may be pruned already."""
    return tuple(rank for rank, live in enumerate(_live_steps(plan)) if any(live))


def losable(plan: Plan) -> list[int]:
    """The ranks whose loss leaves an answer: those that are not alone in answering with an output."""
    alone = {piece.device for port in plan.outputs if not port.fallbacks for piece in port.pieces}
    return [rank for rank in range(plan.num_devices) if rank not in alone]


def _live_steps(plan: Plan) -> list[list[bool]]:
    """For each rank and step, whether an output depends on it; walks backwards from the sends to the client."""
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
                made.update(dict.fromkeys(step.writes, index))
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
        else:
            made = producer[rank]
            todo.extend([(rank, made[name]) for name in step.reads])
    return live


def _join_segments(
    program: list[Step], segments: Mapping[str, Segment]
) -> tuple[tuple[Step, ...], Mapping[str, Segment]]:
    """Join two consecutive computations if no other step reads the tensor between them."""
    readers: Counter[str] | None = None
    steps: list[Step] = []
    used: dict[str, Segment] = {}
    last: Step | None = None
    for step in program:
        if isinstance(step, Compute):
            segment = segments[step.segment]
            if isinstance(last, Compute) and step.inputs == last.outputs and not segment.nodes:
                readers = _count_readers(program) if readers is None else readers
                if all(readers[name] == 1 for name in last.outputs):
                    segment = _joined(used.pop(last.segment), segment)
                    steps.pop()
                    step = Compute(segment.name, last.inputs, step.outputs)
            used[segment.name] = segment
        steps.append(step)
        last = step
    return tuple(steps), used


def _count_readers(program: Sequence[Step]) -> Counter[str]:
    return Counter(name for step in program for name in step.reads)


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
        weights=first.weights + second.weights,
        inputs=first.inputs,
        outputs=second.outputs,
    )
