"""The order in which one process executes a whole plan: the steps of all devices, each after what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import PlanError
from sepnas.plan.merges import optional_tensors
from sepnas.plan.plan import Piece, Plan, Segment
from sepnas.plan.steps import CLIENT, Compute, Recv, Send, Step

Source: TypeAlias = tuple[str, Piece]
"""A piece of an input port, with the port's name."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of device ``rank``, and the tensors that no later step of the device needs.

    ``tags`` of a send: all messages that carry the same region of the tensor in the same encoding, which is made once.
    ``origin`` of a computation on an unchanged piece of an input: the index in ``Schedule.sources``.
    ``optional``: the device can do without the message that is received.
    """

    rank: int
    step: Step
    drops: tuple[str, ...]
    tags: tuple[int, ...] = ()
    origin: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Schedule:
    """A plan, and all its steps in the order of execution.

    ``sources`` are the pieces of inputs on which segments run directly; ``readers`` are these segments, by source.
    """

    plan: Plan
    turns: tuple[Turn, ...]
    sources: tuple[Source, ...]
    readers: tuple[tuple[tuple[int, Segment], ...], ...]


def progress(plan: Plan) -> tuple[list[tuple[int, int]], list[int]]:
    """All steps that can be executed, as ``(rank, index)`` in order, and the step at which each device ends or waits.

    Each device goes on until it waits for a message that is not sent yet.
    """
    posted = {piece.tag for port in plan.inputs for piece in port.pieces}
    order: list[tuple[int, int]] = []
    at, before = [0] * plan.num_devices, -1
    while len(order) > before:
        before = len(order)
        for rank, program in enumerate(plan.programs):
            for index in range(at[rank], len(program)):
                step = program[index]
                if isinstance(step, Recv) and step.tag not in posted:
                    break
                if isinstance(step, Send):
                    posted.add(step.tag)
                order.append((rank, index))
                at[rank] = index + 1
    return order, at


def schedule(plan: Plan) -> Schedule:
    """The schedule of a plan; :class:`PlanError` if its devices would wait for each other."""
    order, at = progress(plan)
    stuck = [str(rank) for rank, program in enumerate(plan.programs) if at[rank] < len(program)]
    if stuck:
        raise PlanError(f"the plan's devices {', '.join(stuck)} wait for messages that are not sent")
    steps = [(rank, plan.programs[rank][index]) for rank, index in order]
    copies = _equal_sends(steps)
    steps = [(rank, step) for rank, step in steps if not isinstance(step, Send) or step.tag in copies]
    sources, optional = _Sources(plan), [optional_tensors(program) for program in plan.programs]
    turns = [
        Turn(
            rank,
            step,
            drops,
            copies[step.tag] if isinstance(step, Send) else (),
            sources.origin(rank, step),
            isinstance(step, Recv) and step.tensor in optional[rank],
        )
        for (rank, step), drops in zip(steps, _drops(steps), strict=True)
    ]
    return Schedule(plan, tuple(turns), tuple(sources.found), tuple(map(tuple, sources.readers)))


def _equal_sends(steps: list[tuple[int, Step]]) -> dict[int, tuple[int, ...]]:
    """The tags of all messages with equal content, by the tag of the first one that is sent."""
    found: dict[object, list[int]] = {}
    for rank, step in steps:
        if isinstance(step, Send):
            found.setdefault((rank, step.tensor, step.region, step.wire, step.scale), []).append(step.tag)
    return {tags[0]: tuple(tags) for tags in found.values()}


def _drops(steps: list[tuple[int, Step]]) -> list[tuple[str, ...]]:
    """For each step the tensors of its device that no later step uses."""
    last: dict[tuple[int, str], int] = {}
    for place, (rank, step) in enumerate(steps):
        for name in (*step.reads, *step.writes):
            last[rank, name] = place
    drops: list[list[str]] = [[] for _ in steps]
    for (_, name), place in last.items():
        drops[place].append(name)
    return [tuple(names) for names in drops]


class _Sources:
    """Finds the computations that take one piece of an input as it came, grouped by the piece's port and region."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pieces = {piece.tag: (port.name, piece) for port in plan.inputs for piece in port.pieces}
        self._came: dict[tuple[int, str], Source] = {}
        self._numbers: dict[object, int] = {}
        self.found: list[Source] = []
        self.readers: list[list[tuple[int, Segment]]] = []

    def origin(self, rank: int, step: Step) -> int | None:
        """The source of a step, which comes after those that it needs; None if it takes anything else."""
        if isinstance(step, Recv) and step.source == CLIENT:
            self._came[rank, step.tensor] = self._pieces[step.tag]
        source = self._came.get((rank, step.inputs[0])) if isinstance(step, Compute) and len(step.inputs) == 1 else None
        if source is None:
            return None
        assert isinstance(step, Compute)
        name, piece = source
        number = self._numbers.setdefault((name, piece.region, piece.wire), len(self.found))
        if number == len(self.found):
            self.found.append(source)
            self.readers.append([])
        self.readers[number].append((rank, self._plan.segments[rank][step.segment]))
        return number
