"""The sections about a search as a whole: its progress, and the policies that it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sepnas.objectives import OBJECTIVES, names_losing_devices
from sepnas.report.body import LONG, Picture, Section, SortableCell, Table, picture
from sepnas.report.content import CandidatePoint, FrontGrowth, ReportContent
from sepnas.report.figures.growth import before_after_drawing, hypervolume_drawing
from sepnas.report.figures.parallel import parallel_drawing
from sepnas.report.figures.policy import policy_legend_drawing, small_policy_drawing
from sepnas.units import format_bytes, format_count, format_seconds, format_share

MAX_POLICIES = 12
"""Maximum number of points of the front whose policies are drawn."""

MAX_TRANSFERS = 400
"""Maximum number of transfers in a small drawing: more arrows would be illegible and make the page too large."""

_TABLE_STEPS = 12


def progress_section(content: ReportContent) -> Section | None:
    """The hypervolume over the candidates, and the early and final fronts."""
    growth = content.growth
    if not growth:
        return None
    early, last = content.early, growth[-1]
    caption = "Hypervolume after each candidate; the first few may lie below the picture."
    pictures = [picture(partial(hypervolume_drawing, growth, early), caption)]
    if any(candidate.on_early_front for candidate in content.candidates):
        draw = partial(before_after_drawing, content.candidates, early)
        pictures.append(
            picture(draw, f"The front after the first {format_count(early, 'candidate')}, and the final front.")
        )
    return Section(
        "progress",
        "Progress of the search",
        f"Hypervolume is the share that the front dominates of the box between the ideal point and the costs of the "
        f"largest policy: {growth[early - 1].hypervolume:.4f} after {format_count(early, 'candidate')}, "
        f"{last.hypervolume:.4f} after {last.evaluated}.",
        tuple(pictures),
        (_growth_table(growth, early),),
    )


def _growth_table(growth: Sequence[FrontGrowth], early: int) -> Table:
    count = len(growth)
    steps = sorted({1, early, *(round(count * part / _TABLE_STEPS) or 1 for part in range(1, _TABLE_STEPS + 1))})
    rows = tuple(
        (str(step.evaluated), f"{step.hypervolume:.4f}", str(step.front_size), format_share(step.best_accuracy))
        for step in (growth[number - 1] for number in steps)
    )
    header = ("candidates", "hypervolume", "on the front", "best supernet accuracy")
    return Table("Growth of the front", header, rows, folded=True)


def policies_section(content: ReportContent) -> Section | None:
    """All policies as parallel coordinates, and drawings of some policies of the front."""
    candidates = [candidate for candidate in content.candidates if candidate.traits]
    if not candidates:
        return None
    front = [candidate for candidate in candidates if candidate.on_front]
    return Section(
        "policies",
        "The policies",
        "Each line is a candidate: the traits of its policy, its costs and its accuracy. Traits that are equal for all "
        "policies with messages have no axis. Below, the transfers of some points of the front. Transfers that cannot "
        "affect the answer are never sent, and are neither counted nor drawn.",
        (
            picture(
                partial(parallel_drawing, candidates, content.objectives),
                "Point at a line to highlight it in all pictures.",
                wide=True,
            ),
            *_gallery(front),
        ),
        (_policies_table(front),) if front else (),
    )


def _gallery(front: Sequence[CandidatePoint]) -> Iterator[Picture]:
    drawable = {c.index: c.architecture for c in front if c.architecture and _num_transfers(c) <= MAX_TRANSFERS}
    shown = spread([candidate for candidate in front if candidate.index in drawable], MAX_POLICIES)
    if not shown:
        return
    which = "All" if len(shown) == len(front) else f"{len(shown)} of {len(front)}, spread over the front,"
    caption = f"Policies of the front: {which} are drawn, by rising payload; each box is a block."
    legend = partial(policy_legend_drawing, [drawable[candidate.index] for candidate in shown])
    yield picture(legend, caption, wide=True)
    for candidate in shown:
        draw = partial(small_policy_drawing, drawable[candidate.index], f"policy-{candidate.index}")
        yield picture(draw, _policy_caption(candidate))


def _num_transfers(candidate: CandidatePoint) -> float:
    return candidate.traits["num_transfers"]


def spread(front: Sequence[CandidatePoint], most: int) -> list[CandidatePoint]:
    """At most ``most`` candidates, spread evenly by payload, including both ends, the knee and the chosen one."""
    ordered = sorted(front, key=lambda c: (c.objectives["payload_bytes"], c.index))
    if len(ordered) <= most:
        return ordered
    wanted = {0, len(ordered) - 1, *(place for place, c in enumerate(ordered) if c.knee or c.chosen)}
    while len(wanted) < most:
        wanted.add(max(range(len(ordered)), key=lambda place: min(abs(place - other) for other in wanted)))
    return [ordered[place] for place in sorted(wanted)]


def _policy_caption(candidate: CandidatePoint) -> str:
    objectives = candidate.objectives
    accuracy, latency = format_share(objectives["accuracy"]), format_seconds(objectives["latency_s"])
    for name in names_losing_devices(name for name in OBJECTIVES if name in objectives):
        accuracy += f" ({format_share(objectives[name])} {OBJECTIVES[name].label.removeprefix('accuracy ')})"
    numbers = f"{accuracy} on the supernet, {latency}, {format_bytes(objectives['payload_bytes'])}"
    return f"Candidate {_name(candidate)}: {numbers}. {candidate.phrase[:1].upper()}{candidate.phrase[1:]}."


def _name(candidate: CandidatePoint) -> str:
    notes = [candidate.label] if candidate.label else []
    notes += ["knee"] if candidate.knee else []
    notes += ["chosen"] if candidate.chosen else []
    return f"{candidate.index} ({', '.join(notes)})" if notes else str(candidate.index)


def _policies_table(front: Sequence[CandidatePoint]) -> Table:
    header = (
        "candidate",
        "policy",
        "transfers",
        "channels sent",
        "bits of a number",
        "lagged",
        "payload",
        "supernet accuracy",
    )
    ordered = sorted(front, key=lambda c: (c.objectives["payload_bytes"], c.index))
    rows = tuple(_policy_row(candidate) for candidate in ordered)
    marked = frozenset(row for row, candidate in enumerate(ordered) if candidate.chosen)
    return Table("The policies of the front", header, rows, len(rows) > LONG, marked, num_text_columns=2)


def _policy_row(candidate: CandidatePoint) -> tuple[str, ...]:
    traits, objectives = candidate.traits, candidate.objectives
    return (
        _name(candidate),
        candidate.phrase,
        f"{_num_transfers(candidate):.0f}",
        f"{100 * traits['mean_fraction']:.0f} %",
        f"{traits['mean_wire_bits']:.3g}",
        f"{100 * traits['lag_share']:.0f} %",
        SortableCell(format_bytes(objectives["payload_bytes"]), objectives["payload_bytes"]),
        SortableCell(format_share(objectives["accuracy"]), objectives["accuracy"]),
    )
