"""Converts time lines, counters and training runs into parts of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sepnas.cost.simulator import Simulation
from sepnas.cost.timeline import Timeline
from sepnas.errors import SpecError
from sepnas.plan.steps import CLIENT
from sepnas.report.content import Curve, ShownLink, ShownSpan, ShownTimeline, SplitAccuracy
from sepnas.results.provenance import machine_facts
from sepnas.runtime.client.trace import RequestRecord
from sepnas.runtime.transport.counters import Counters
from sepnas.spec.evaluation import EVALUATION_NAME, ClassifierEvaluation, read_kept
from sepnas.spec.files import is_there


def shown_timeline(timeline: Timeline) -> ShownTimeline:
    """A time line for the page, which shows a message between devices at its sending and at its arrival."""
    spans = []
    for activity in timeline.activities:
        rank, kind, peer = activity.rank, activity.kind, activity.peer
        end = (activity.name, activity.start_s, activity.end_s)
        if kind == "transfer" and peer is not None and CLIENT not in (rank, peer):
            spans.append(ShownSpan(rank, "send", *end, peer=peer, nbytes=activity.payload_bytes))
            spans.append(ShownSpan(peer, "recv", *end, peer=rank, nbytes=activity.payload_bytes))
        elif activity.seconds > 0 and (kind == "wait" or kind == "recv"):
            spans.append(ShownSpan(rank, "wait", *end, peer=peer))
        elif activity.seconds > 0 and (kind == "compute" or kind == "merge"):
            spans.append(ShownSpan(rank, kind, *end))
    return ShownTimeline(timeline.title, tuple(spans), timeline.latency_s)


def counted_bytes(counters: Counters) -> dict[tuple[int, int], int]:
    """Bytes between devices, and from and to the client, for one request, as counted on the sockets."""
    requests = max(1, counters.requests)
    return {(x.source, x.destination): x.sent.payload_bytes // requests for x in counters.links}


def traced_bytes(request: RequestRecord) -> dict[tuple[int, int], int]:
    """Bytes between devices for this request, as recorded by the senders."""
    found: Counter[tuple[int, int]] = Counter()
    for device in request.devices:
        for step in device.steps:
            if step.step == "send" and step.peer not in (None, CLIENT):
                found[device.rank, step.peer] += step.payload_bytes
    return dict(found)


def traced_client_bytes(request: RequestRecord) -> dict[tuple[int, int], int]:
    """Bytes from and to the client for this request, as recorded by the devices."""
    found: Counter[tuple[int, int]] = Counter()
    for device in request.devices:
        for step in device.steps:
            if step.peer == CLIENT:
                pair = (device.rank, CLIENT) if step.step == "send" else (CLIENT, device.rank)
                found[pair] += step.payload_bytes
    return dict(found)


def link_bytes(simulation: Simulation, counted: Mapping[tuple[int, int], int]) -> tuple[ShownLink, ...]:
    """The predicted and counted bytes of each link for one request, the client's links last."""
    links = (*simulation.links, *simulation.client_links)
    predicted = {(link.source, link.destination): link.payload_bytes for link in links}
    pairs = sorted({*predicted, *(pair for pair, count in counted.items() if count)}, key=lambda p: (CLIENT in p, p))
    return tuple(ShownLink(s, d, predicted.get((s, d), 0), counted.get((s, d), 0)) for s, d in pairs)


def training_curves(run: Path) -> tuple[Curve, ...]:
    """Loss and validation accuracy of a training run so far; raises :class:`TrainingError`."""
    from sepnas.train.record import read_history

    history = read_history(run)
    return (
        Curve("training loss", "loss", tuple(record.train_loss for record in history)),
        Curve("validation accuracy", "accuracy", tuple(record.val_accuracy for record in history)),
    )


def split_accuracies(run: Path) -> tuple[SplitAccuracy, ...]:
    """The measured accuracies of a finished run; raises :class:`SpecError` for a damaged file."""
    from sepnas.train.evaluation import read_evaluations

    return tuple(
        SplitAccuracy(
            found.split, found.images, found.accuracy, found.mean_of_classes,
            tuple((each.name, each.images, each.accuracy) for each in found.classes), found.command, found.date,
        )
        for found in read_evaluations(run)
    )  # fmt: skip


def kept_evaluations(given: Sequence[Path], training: Path | None) -> tuple[ClassifierEvaluation, ...]:
    """The evaluations in the given files or folders, and those of a run if it has any, the oldest first.

    Raises :class:`SpecError` for a missing or damaged file.
    """
    for each in given:
        if not is_there(each):
            raise SpecError(
                f"{each}: no such file or folder; expected evaluations, which `sepnas evaluate NETWORK` keeps in "
                f"NETWORK/{EVALUATION_NAME}"
            )
    own = [] if training is None or not is_there(training / EVALUATION_NAME) else [training]
    places = dict.fromkeys(each / EVALUATION_NAME if each.is_dir() else each for each in (*own, *given))
    return tuple(sorted(read_kept(places), key=lambda each: each.date))


def machine_rows() -> dict[str, str]:
    """The known facts about this machine, as text by name."""
    return {name: str(value) for name, value in machine_facts().model_dump().items() if value is not None}
