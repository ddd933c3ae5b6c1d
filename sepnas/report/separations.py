"""The section about separations of a network that `sepnas explore` evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sepnas.objectives import ACCURACY, LATENCY_S, MEMORY_BYTES, PAYLOAD_BYTES
from sepnas.report.body import Section, SortableCell, Table, picture
from sepnas.report.content import CandidatePoint, ExploredSeparations, Objectives, ReportContent
from sepnas.report.figures.front import AccuracyWords, Original, front_drawing
from sepnas.units import format_count

WORDS = AccuracyWords("accuracy before training", "accuracy")
_COSTS = (PAYLOAD_BYTES, LATENCY_S, MEMORY_BYTES)


def separations_section(content: ReportContent) -> Section | None:
    """Accuracy against each cost, with the network on one device, and the candidates as tables."""
    found = content.separations
    if found is None:
        return None
    front = [each for each in found.candidates if each.on_front]
    rest = [each for each in found.candidates if not each.on_front]
    tables = [_table(f"The Pareto front: {format_count(len(front), 'candidate')}", front, False, found)]
    tables += [_table(f"The other {format_count(len(rest), 'candidate')}", rest, True)] if rest else []
    original = Original("one device", found.original_accuracy, found.original_costs)
    return Section(
        "separations",
        "Ways to separate the network",
        f"{format_count(len(found.candidates), 'candidate')}, {len(front)} of them on the Pareto front: no other "
        "candidate is at least as good in accuracy, latency, bytes and memory, and better in one of them. Accuracies "
        "are of validation images, with messages rounded as on their way, before any training; fine-tuning gives back "
        f"part of what is lost. Costs are predicted for cluster “{found.cluster}”.",
        tuple(
            picture(
                partial(front_drawing, found.candidates, cost, found.cluster, WORDS, original),
                f"Accuracy against {cost.label}: up and to the left is better.",
            )
            for cost in _COSTS
        ),
        tuple(tables),
        (found.command,) if found.command else (),
    )


def _table(
    caption: str, candidates: Sequence[CandidatePoint], folded: bool, of: ExploredSeparations | None = None
) -> Table:
    """The candidates by falling accuracy, below the network itself."""
    ordered = sorted(candidates, key=lambda c: (-c.objectives[ACCURACY.name], c.objectives[PAYLOAD_BYTES.name]))
    rows = [(f"{c.index}{' (knee)' if c.knee else ''}", c.phrase, *_numbers(c.objectives)) for c in ordered]
    if of is not None:
        known = {**of.original_costs, ACCURACY.name: of.original_accuracy}
        rows.insert(0, ("the network", "one device", *_numbers(known)))
    header = ("candidate", "separation", ACCURACY.label, *(cost.title for cost in _COSTS))
    marked = frozenset(row for row, cells in enumerate(rows) if cells[0].endswith("(knee)"))
    return Table(caption, header, tuple(rows), folded, marked, num_text_columns=2)


def _numbers(measured: Objectives) -> Iterator[str]:
    for objective in (ACCURACY, *_COSTS):
        value = measured[objective.name]
        yield SortableCell(objective.text(value), value)
