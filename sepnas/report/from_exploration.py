"""Converts an exploration into its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepnas.report.content import CandidatePoint, ExploredSeparations, ReportContent
from sepnas.separation.thinning import FEW
from sepnas.separation.tiled_layers import NO_TILES
from sepnas.units import format_count, format_share

if TYPE_CHECKING:
    from sepnas.exploration.candidate import SeparationCandidate
    from sepnas.exploration.run import ExplorationResult


def exploration_content(result: ExplorationResult, command: str = "") -> ReportContent:
    """The page of a finished exploration; ``command`` separates the network as at the knee."""
    from sepnas.exploration.folder import archive_in

    run, front, knee = result.run, result.front, result.knee
    on_front = {each.key for each in front.candidates}
    points = tuple(
        CandidatePoint(
            index=each.index, objectives=each.measured, on_front=each.key in on_front, knee=each.key == knee.key,
            phrase=_phrase(each),
        )
        for each in archive_in(result.run_dir).candidates()
    )  # fmt: skip
    return ReportContent(
        title="sepnas explore",
        about=f"{run.network} over {format_count(run.num_devices, 'device')}, images of {run.data}",
        separations=ExploredSeparations(
            points, front.original_accuracy, front.original_costs, run.cluster.name, command
        ),
    )


def _phrase(candidate: SeparationCandidate) -> str:
    """Its knobs and what it uses of them, such as ``tiles until relu5, 3 points, 2.00 % in int4``."""
    knobs = candidate.knobs
    tiles = "no tiles" if knobs.tiles_until == NO_TILES else f"tiles until {knobs.tiles_until}"
    points = format_count(candidate.points, "point")
    few = ", few messages" if knobs.messages == FEW else ""
    return f"{tiles}, {points}, at most {format_share(knobs.budget)}, {knobs.wire}{few}"
