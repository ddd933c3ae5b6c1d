"""The time line of one request, in the same form for a prediction and a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sepnas.cost.simulator import Simulation, Span, SpanKind
from sepnas.errors import PlanError
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Step, StepKind, describe_step

ActivityKind = Literal["compute", "slice", "merge", "send", "recv", "wait", "transfer"]


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity of a device, or (``transfer``) a message on the wire, in seconds since the request was sent.

    A ``recv`` takes a message that has arrived; a ``wait`` precedes it if the device was ready earlier. The ``rank``
    of a transfer is its sender's. ``peer`` (-1: the client), ``tag`` and ``payload_bytes`` describe a message; its
    ``wire`` format is known only with the plan.
    """

    rank: int
    kind: ActivityKind
    name: str
    start_s: float
    end_s: float
    peer: int | None = None
    tag: int | None = None
    payload_bytes: int = 0
    wire: str | None = None

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request, named by ``title``; ``latency_s`` is when the client had the answer.

    Each device's activities are in the order in which it did them, followed by those of the links.
    ``uncertainty_s`` is the possible error of a device's clock against the client's (no entry: none).
    """

    title: str
    latency_s: float
    activities: tuple[Activity, ...]
    batch: int = 1
    uncertainty_s: Mapping[int, float] = field(default_factory=dict)


def wires_of(plan: Plan) -> dict[int, str]:
    """The wire format of each message, by tag."""
    return {message.tag: message.wire for message in plan.messages()}


_PARTS: Mapping[StepKind, tuple[SpanKind, ...]] = {
    "compute": ("compute",), "slice": (), "merge": ("compute", "merge"), "send": ("convert",), "recv": ("convert",)
}  # fmt: skip
"""The spans that a step may have, in order; a merge computes if it convolves."""
_Way: TypeAlias = tuple[int, int, str]
"""Source, destination and the tensor of a message."""


def predicted_timeline(plan: Plan, simulation: Simulation, batch: int = 1) -> Timeline:
    """The time line of a simulation of ``plan``: every step, those that cost nothing with zero length.

    Raises :class:`PlanError` if the simulation has no time line, or that of another plan.
    """
    ways: dict[_Way, list[Span]] = {}
    spans: list[list[Span]] = [[] for _ in plan.programs]
    for span in simulation.timeline:
        if span.kind != "transfer":
            spans[span.rank].append(span)
        elif span.peer is not None:
            ways.setdefault((span.rank, span.peer, span.name), []).append(span)
    activities = [
        activity
        for rank, program in enumerate(plan.programs)
        for activity in _device_activities(rank, program, iter(spans[rank]))
    ]
    transfers = list(_transfers(plan, ways))
    nbytes = {message.tag: message.payload_bytes(batch) for message in plan.messages()}
    wires = wires_of(plan)
    described = (_of_message(activity, nbytes, wires) for activity in (*activities, *transfers))
    return Timeline("predicted", simulation.latency_s, tuple(described), batch)


def _device_activities(rank: int, program: Iterable[Step], spans: Iterator[Span]) -> Iterator[Activity]:
    """One device's steps with the times of their spans; a step without a span takes no time."""
    now_s, ahead = 0.0, next(spans, None)
    for step in program:
        kind, name, peer, tag = describe_step(step)
        if kind == "recv" and ahead is not None and (ahead.kind, ahead.name, ahead.peer) == ("wait", name, peer):
            yield Activity(rank, "wait", name, ahead.start_s, ahead.end_s, peer, tag)
            now_s, ahead = ahead.end_s, next(spans, None)
        start_s = now_s
        for part in _PARTS[kind]:
            if ahead is not None and (ahead.kind, ahead.name) == (part, name):
                now_s, ahead = ahead.end_s, next(spans, None)
            elif kind == "compute":
                raise PlanError(f"the simulation has no time of segment '{name}' of rank {rank}")
        yield Activity(rank, kind, name, start_s, now_s, peer, tag)


def _transfers(plan: Plan, ways: Mapping[_Way, list[Span]]) -> Iterator[Activity]:
    """The messages that took time; those of the client take none without a client link."""
    for message in sorted(plan.messages(), key=lambda message: message.tag):
        found = ways.get((message.source, message.destination, message.tensor))
        if found:
            span = found.pop(0)
            yield Activity(
                message.source, "transfer", message.tensor, span.start_s, span.end_s, message.destination, message.tag
            )


def _of_message(activity: Activity, nbytes: Mapping[int, int], wires: Mapping[int, str]) -> Activity:
    """The activity with the bytes and the wire format of its message."""
    tag = activity.tag
    if tag is None:
        return activity
    return Activity(
        activity.rank, activity.kind, activity.name, activity.start_s, activity.end_s, activity.peer, tag,
        0 if activity.kind == "wait" else nbytes[tag], wires[tag],
    )  # fmt: skip


def describe_activity(activity: Activity) -> str:
    """An activity in a few words: ``device 0 computes block2``."""
    who, name = rank_name(activity.rank), activity.name
    if activity.kind in ("compute", "slice", "merge") or activity.peer is None:
        return f"{who} {activity.kind}s {name}"
    peer = rank_name(activity.peer)
    return {
        "send": f"{who} sends {name} to {peer}",
        "recv": f"{who} takes in {name} from {peer}",
        "wait": f"{who} waits for {name} from {peer}",
        "transfer": f"{name} on its way from {who} to {peer}",
    }[activity.kind]


def rank_name(rank: int) -> str:
    """``device 0``, or ``client`` for the rank below zero."""
    return "client" if rank == CLIENT else f"device {rank}"
