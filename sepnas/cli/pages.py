"""From plans, traces and counters to what the report page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from sepnas.cost.simulator import Simulation
from sepnas.plan.steps import CLIENT
from sepnas.report.content import Curve, LinkBytes, Span, Timeline
from sepnas.report.provenance import machine_facts
from sepnas.runtime.counters import Counters
from sepnas.runtime.trace import RequestRecord, StepRecord


def predicted_timeline(simulation: Simulation) -> Timeline:
    """The simulator's time line; a transfer is shown where it leaves and where it arrives."""
    spans = []
    for span in simulation.timeline:
        if span.kind == "compute" or span.kind == "merge" or span.kind == "wait":
            spans.append(Span(span.rank, span.kind, span.name, span.start_s, span.end_s, span.peer))
        elif span.kind == "transfer" and span.peer is not None and CLIENT not in (span.rank, span.peer):
            end = (span.name, span.start_s, span.end_s)
            spans.append(Span(span.rank, "send", *end, peer=span.peer, nbytes=span.payload_bytes))
            spans.append(Span(span.peer, "recv", *end, peer=span.rank, nbytes=span.payload_bytes))
    return Timeline("predicted", tuple(spans), simulation.latency_s)


def measured_timeline(request: RequestRecord) -> Timeline:
    """A traced request on the client's clock, from the moment it was sent."""
    sent_s = {
        (device.rank, step.peer, step.tag): step.start_s
        for device in request.devices
        for step in device.steps
        if step.step == "send"
    }
    spans: list[Span] = []
    for device in request.devices:
        for step in device.steps:
            spans.extend(_measured_spans(device.rank, step, request.sent_s, sent_s))
    return Timeline("measured", tuple(spans), request.latency_s)


def _measured_spans(
    rank: int, step: StepRecord, origin_s: float, sent_s: Mapping[tuple[int, int | None, int | None], float]
) -> Iterable[Span]:
    start_s, end_s = step.start_s - origin_s, step.end_s - origin_s
    if step.step == "compute" or step.step == "merge":
        yield Span(rank, step.step, step.name, start_s, end_s)
    elif step.step == "recv":
        yield Span(rank, "wait", step.name, start_s, end_s, step.peer)
        posted_s = sent_s.get((step.peer if step.peer is not None else CLIENT, rank, step.tag))
        if posted_s is not None and step.arrived_s is not None and step.peer is not None:
            end = (step.name, posted_s - origin_s, max(posted_s, step.arrived_s) - origin_s)
            yield Span(step.peer, "send", *end, peer=rank, nbytes=step.payload_bytes)
            yield Span(rank, "recv", *end, peer=step.peer, nbytes=step.payload_bytes)


def counted_bytes(counters: Counters) -> dict[tuple[int, int], int]:
    """What the sockets counted between devices, for one request."""
    requests = max(1, counters.requests)
    return {(x.source, x.destination): x.sent.payload_bytes // requests for x in counters.device_links}


def traced_bytes(request: RequestRecord) -> dict[tuple[int, int], int]:
    """What the devices say that they sent each other for this request."""
    found: Counter[tuple[int, int]] = Counter()
    for device in request.devices:
        for step in device.steps:
            if step.step == "send" and step.peer not in (None, CLIENT):
                found[device.rank, step.peer] += step.payload_bytes
    return dict(found)


def link_bytes(simulation: Simulation, counted: Mapping[tuple[int, int], int]) -> tuple[LinkBytes, ...]:
    """For each link what the plan says and what was counted, for one request."""
    predicted = {(link.source, link.destination): link.payload_bytes for link in simulation.links}
    pairs = sorted({*predicted, *(pair for pair, count in counted.items() if count)})
    return tuple(LinkBytes(s, d, predicted.get((s, d), 0), counted.get((s, d), 0)) for s, d in pairs)


def training_curves(run: Path) -> tuple[Curve, ...]:
    """Loss and validation accuracy of a training run so far; raises :class:`TrainingError`."""
    from sepnas.train.record import read_history

    history = read_history(run)
    return (
        Curve("training loss", "loss", tuple(record.train_loss for record in history)),
        Curve("validation accuracy", "accuracy", tuple(record.val_accuracy for record in history)),
    )


def machine_rows() -> dict[str, str]:
    """The machine, in words."""
    return {name: str(value) for name, value in machine_facts().model_dump().items() if value is not None}
