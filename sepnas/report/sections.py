"""The sections of the page: pictures with the tables under them; a section without data is omitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sepnas.objectives import OBJECTIVES, Objective, is_evaluated, shown_objectives
from sepnas.plan.liveness import devices_used
from sepnas.plan.steps import CLIENT
from sepnas.report.body import LONG, Picture, Section, SortableCell, Table, picture
from sepnas.report.content import Accuracy, CandidatePoint, ReportContent, SplitAccuracy
from sepnas.report.evaluation import evaluation_section
from sepnas.report.exploration import policies_section, progress_section
from sepnas.report.figures.bars import classes_drawing, link_name, links_drawing
from sepnas.report.figures.curves import curves_drawing, epochs_of, is_share
from sepnas.report.figures.front import front_drawing
from sepnas.report.figures.policy import policy_drawing, transfers_of
from sepnas.report.figures.timeline import BUSY_HEADER, busy_rows, timeline_drawing
from sepnas.report.plans_sections import comparison_section, maps_section, plan_timeline_section
from sepnas.report.separations import separations_section
from sepnas.separable.build import build_plan
from sepnas.separable.live_policy import sent_policy
from sepnas.separable.policy import ExchangePoint, Transfer
from sepnas.units import format_count, format_idle, format_seconds, format_share

_MAX_CLASSES = 24
"""Maximum number of classes in a picture; the table has them all."""


def sections_of(content: ReportContent) -> list[Section]:
    """The sections that have data, in the order of the page."""
    found = [make(content) for make in _MAKERS]
    return [section for section in found if section is not None]


def _front(content: ReportContent) -> Section | None:
    candidates = content.candidates
    if not candidates:
        return None
    costs = [name for name in OBJECTIVES if name in PICTURED or (name in content.objectives and not is_evaluated(name))]
    return Section(
        "front",
        "The search",
        f"{format_count(len(candidates), 'candidate')}, {sum(c.on_front for c in candidates)} of them on the Pareto "
        f"front: no other candidate is at least as good in {_listed(content.objectives)}, and better in one of them. "
        "Accuracies are measured with the supernet's weights, which all candidates share: they rank candidates; a "
        f"network trained from scratch has another accuracy.{_predicted_for(content)}",
        tuple(
            picture(partial(front_drawing, candidates, OBJECTIVES[name], content.search_cluster), _front_caption(name))
            for name in sorted(costs, key=_picture_order)
        ),
        tuple(_candidate_tables(candidates, content.objectives)),
    )


def _predicted_for(content: ReportContent) -> str:
    what = " Latency, energy and memory are predicted"
    return f"{what} for cluster “{content.search_cluster}”." if content.search_cluster else ""


_FRONT_CAPTIONS = {
    "payload_bytes": "Accuracy against bytes: up and to the left is better.",
    "latency_s": "Accuracy against latency: up and to the left is better.",
}
PICTURED = tuple(_FRONT_CAPTIONS)
"""Costs that always have a picture with accuracy, in this order, before the other objectives of the space."""


def _front_caption(name: str) -> str:
    return _FRONT_CAPTIONS.get(name, f"Accuracy against {OBJECTIVES[name].label}: up and to the left is better.")


def _picture_order(name: str) -> int:
    return PICTURED.index(name) if name in PICTURED else len(PICTURED)


def _listed(objectives: Sequence[str]) -> str:
    *first, last = [OBJECTIVES[name].label for name in objectives]
    return f"{', '.join(first)} and {last}"


def _candidate_tables(candidates: Sequence[CandidatePoint], objectives: Sequence[str]) -> Iterator[Table]:
    """The tables of candidates; every candidate is in at least one of them."""
    known = [candidate for candidate in candidates if candidate.label or candidate.chosen]
    front = [candidate for candidate in candidates if candidate.on_front]
    rest = [candidate for candidate in candidates if not (candidate.on_front or candidate.label or candidate.chosen)]
    if known:
        yield _candidate_table("Chosen and named", known, objectives, False)
    if front:
        yield _candidate_table(
            f"The Pareto front: {format_count(len(front), 'candidate')}", front, objectives, len(front) > LONG
        )
    if rest:
        yield _candidate_table(f"The other {format_count(len(rest), 'candidate')}", rest, objectives, True)


def _candidate_table(
    caption: str, candidates: Sequence[CandidatePoint], objectives: Sequence[str], folded: bool
) -> Table:
    ordered = sorted(candidates, key=lambda c: (-c.objectives["accuracy"], c.objectives["payload_bytes"], c.index))
    columns = _columns(candidates, objectives)
    header = ("candidate", "", "policy", *(column.heading for column in columns))
    marked = frozenset(row for row, candidate in enumerate(ordered) if candidate.chosen)
    rows = tuple((*_candidate_head(candidate), *_candidate_numbers(candidate, columns)) for candidate in ordered)
    return Table(caption, header, rows, folded, marked, num_text_columns=3)


def _candidate_head(candidate: CandidatePoint) -> tuple[str, str, str]:
    notes = (("front", candidate.on_front), ("knee", candidate.knee), ("chosen", candidate.chosen))
    words = [*([candidate.label] if candidate.label else []), *(note for note, holds in notes if holds)]
    return str(candidate.index), ", ".join(words), candidate.phrase


def _candidate_numbers(candidate: CandidatePoint, columns: Sequence[_Column]) -> Iterator[str]:
    for column in columns:
        value = column.value(candidate)
        yield "" if value is None else SortableCell(column.text(value), value)


@dataclass(frozen=True, slots=True)
class _Column:
    """A number of each candidate; a candidate may lack it."""

    heading: str
    text: Callable[[float], str]
    value: Callable[[CandidatePoint], float | None]


def _columns(candidates: Sequence[CandidatePoint], objectives: Sequence[str]) -> list[_Column]:
    """Columns for objectives shown by default or of the space, and for the devices, as far as values are known."""
    shown = shown_objectives([candidate.objectives for candidate in candidates], objectives)
    columns = [_column(objective) for objective in shown]
    if any(candidate.devices_used is not None for candidate in candidates):
        columns.append(_Column("devices used", "{:.0f}".format, lambda candidate: candidate.devices_used))
    return columns


def _column(objective: Objective) -> _Column:
    return _Column(objective.title, objective.text, lambda candidate: objective.known_value(candidate.objectives))


def _policy(content: ReportContent) -> Section | None:
    architecture = content.architecture
    if architecture is None:
        return None
    widths = ", ".join(f"{p.cardinality}x{p.bottleneck_width}d" for p in architecture.parts)
    sent = architecture.model_copy(update={"policy": sent_policy(architecture)})
    rows = tuple(_transfer_row(point, transfer) for point, transfer in transfers_of(sent))
    header = ("after block", "from → to", "channels", "wire format", "lag", "merge")
    caption = f"The {format_count(len(rows), 'transfer')}"
    tables = (Table(caption, header, rows, folded=True, num_text_columns=2),) if rows else ()
    never = sum(1 for _ in transfers_of(architecture)) - len(rows)
    idle = format_idle(devices_used(build_plan(architecture)), architecture.num_devices)
    return Section(
        "policy",
        "The transmission policy",
        f"{architecture.name}, a {architecture.backbone} of depth {architecture.depth}, over "
        f"{format_count(architecture.num_devices, 'device')} (cardinality and bottleneck width: {widths}), with the "
        f"transmission policy “{architecture.policy.name}”."
        + (
            f" {format_count(never, 'transfer')} of it cannot affect the answer: not sent, and not drawn."
            if never
            else ""
        )
        + (f" {idle[:1].upper()}{idle[1:]}." if idle else ""),
        (picture(partial(policy_drawing, sent), "Each box is a block; time runs from left to right.", wide=True),),
        tables,
    )


def _transfer_row(point: ExchangePoint, transfer: Transfer) -> tuple[str, ...]:
    ends, channels = f"{transfer.source} → {transfer.destination}", f"{100 * transfer.fraction:g} %"
    return (str(point.after), ends, channels, transfer.wire_text(), str(transfer.lag), point.merge)


def _timeline(content: ReportContent) -> Section | None:
    timelines = content.timelines
    if not any(timeline.spans for timeline in timelines):
        return None
    titles = " above ".join(timeline.title for timeline in timelines)
    ends = ", ".join(f"{timeline.title} {format_seconds(timeline.latency_s)}" for timeline in timelines)
    return Section(
        "timeline",
        "One inference",
        f"Latency of the answer: {ends}." + (f" Predicted for cluster “{content.cluster}”." if content.cluster else ""),
        (picture(partial(timeline_drawing, timelines), f"For each device {titles}, on one time axis.", wide=True),),
        (Table("Sums for each device", BUSY_HEADER, tuple(busy_rows(timelines)), num_text_columns=2),),
    )


def _bytes(content: ReportContent) -> Section | None:
    links = content.links
    if not links:
        return None
    rows = [(link_name(x), f"{x.predicted:,}", f"{x.counted:,}", _difference(x.predicted, x.counted)) for x in links]
    between = [x for x in links if CLIENT not in (x.source, x.destination)]
    for name, summed in (("between devices", between), ("all links", links)):
        predicted, counted = sum(x.predicted for x in summed), sum(x.counted for x in summed)
        rows.append((name, f"{predicted:,}", f"{counted:,}", _difference(predicted, counted)))
    equal = all(x.predicted == x.counted for x in links)
    verdict = "Equal on every link." if equal else "They differ on the marked links."
    table = Table(
        "Payload bytes of one inference",
        ("link", "predicted", "counted on the socket", "difference"),
        tuple(rows),
        marked=frozenset(row for row, x in enumerate(links) if x.predicted != x.counted),
    )
    caption = "Payload of each link, the client's included, predicted by the plan and counted on the sockets."
    return Section("bytes", "Bytes", verdict, (picture(partial(links_drawing, links), caption),), (table,))


def _difference(predicted: int, counted: int) -> str:
    return "none" if predicted == counted else f"{counted - predicted:+,}"


def _accuracy(content: ReportContent) -> Section | None:
    accuracy = content.accuracy
    if accuracy is None:
        return None
    differ = accuracy.answers_that_differ
    agree = "agree on every image" if differ == 0 else f"differ on {format_count(differ, 'image')}"
    pictures: tuple[Picture, ...] = ()
    if accuracy.classes:
        lowest = sorted(accuracy.classes, key=lambda c: min(c.whole, c.devices))[:_MAX_CLASSES]
        shown = [c for c in accuracy.classes if c in lowest]
        which = "each class" if len(shown) == len(accuracy.classes) else f"the {len(shown)} hardest classes"
        caption = f"Accuracy of {which}; equal where dot and ring coincide."
        pictures = (picture(partial(classes_drawing, shown), caption),)
    return Section(
        "accuracy",
        "Accuracy",
        f"{format_count(accuracy.num_images, 'image')} through the whole network and through the devices: "
        f"their answers {agree}.",
        pictures,
        tuple(_accuracy_tables(accuracy)),
    )


def _accuracy_tables(accuracy: Accuracy) -> Iterator[Table]:
    header = ("class", "whole network", "through the devices")
    total = ("all classes", format_share(accuracy.whole), format_share(accuracy.devices))
    yield Table(f"Accuracy on {format_count(accuracy.num_images, 'image')}", header, (total,))
    rows = tuple((c.name, format_share(c.whole), format_share(c.devices)) for c in accuracy.classes)
    if rows:
        yield Table(f"Accuracy of {format_count(len(rows), 'class')}", header, rows, folded=len(rows) > LONG)


def _history(content: ReportContent) -> Section | None:
    curves = [curve for curve in content.history if curve.values]
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    if not panels and not content.evaluations:
        return None
    pictures, tables = [], list(_evaluation_tables(content.evaluations))
    for number, panel in enumerate(panels):
        mine = [curve for curve in curves if curve.panel == panel]
        pictures.append(picture(partial(curves_drawing, f"history-{number}", panel, mine), f"{panel} over the epochs"))
        rows = tuple(
            (curve.name, str(epoch), format_share(value) if is_share(panel) else f"{value:.4g}")
            for curve in mine
            for epoch, value in zip(epochs_of(curve), curve.values, strict=True)
        )
        tables.append(Table(f"{panel} of each epoch", ("curve", "epoch", panel), rows, folded=True))
    return Section("history", "Training", "", tuple(pictures), tuple(tables))


def _evaluation_tables(evaluations: Sequence[SplitAccuracy]) -> Iterator[Table]:
    """The trained network's accuracy on each measured split, and for each class."""
    if not evaluations:
        return
    rows = tuple(
        (x.split, x.date, x.command, *_evaluated(x.images, x.accuracy), _shown_share(x.mean_of_classes))
        for x in evaluations
    )
    header = ("split", "measured", "by", "images", "accuracy", "each class alike")
    yield Table("Accuracy of the best epoch", header, rows, num_text_columns=3)
    for x in evaluations:
        found = tuple((name, *_evaluated(images, share)) for name, images, share in x.classes)
        yield Table(f"{x.split} accuracy of each class", ("class", "images", "accuracy"), found, folded=True)


def _evaluated(images: int, accuracy: float) -> tuple[SortableCell, SortableCell]:
    return SortableCell(f"{images:,}", images), _shown_share(accuracy)


def _shown_share(share: float) -> SortableCell:
    return SortableCell(format_share(share), share)


def _reproduce(content: ReportContent) -> Section | None:
    if not content.machine and not content.commands:
        return None
    rows = tuple(content.machine.items())
    tables = (Table("The machine", ("what", "value"), rows, num_text_columns=2),) if rows else ()
    return Section("reproduce", "Run it again", "", (), tables, content.commands)


_MAKERS: tuple[Callable[[ReportContent], Section | None], ...] = (
    separations_section,
    comparison_section,
    maps_section,
    plan_timeline_section,
    _front,
    progress_section,
    policies_section,
    _policy,
    _timeline,
    _bytes,
    _accuracy,
    evaluation_section,
    _history,
    _reproduce,
)
