"""The progress of a search: hypervolume over the evaluated candidates, and the early and final fronts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sepnas.objectives import PAYLOAD_BYTES
from sepnas.report.content import CandidatePoint, FrontGrowth
from sepnas.report.figures.front import candidate_text, scale_bytes
from sepnas.report.figures.style import (
    BLUE,
    HALF_WIDTH_IN,
    MUTED,
    ORANGE,
    Drawing,
    Tip,
    legend_above,
    new_axes,
)
from sepnas.units import format_count, format_share

_HEIGHT_IN = 3.6


def hypervolume_drawing(growth: Sequence[FrontGrowth], early: int) -> Drawing:
    """Hypervolume as a line (left scale), the front's size as a thin line (right scale), with a mark at ``early``."""
    figure, axes = new_axes(HALF_WIDTH_IN, _HEIGHT_IN)
    last = growth[-1]
    drawing = Drawing(
        "growth",
        figure,
        f"Hypervolume over {last.evaluated} evaluated candidates: {growth[0].hypervolume:.4f} after the first, "
        f"{growth[early - 1].hypervolume:.4f} after {early}, {last.hypervolume:.4f} at the end, with a front of "
        f"{format_count(last.front_size, 'point')}. Some of the numbers are listed in the table below.",
    )
    evaluated = [step.evaluated for step in growth]
    axes.step(evaluated, [step.hypervolume for step in growth], where="post", color=BLUE, linewidth=1.8, zorder=4)
    axes.axvline(early, color=MUTED, linewidth=0.8, linestyle=":")
    rises = [new for old, new in pairwise(growth) if new.hypervolume > old.hypervolume]
    shown = [step for step in (growth[0], *rises) if step.hypervolume >= _bottom(growth)]
    marks = axes.scatter([s.evaluated for s in shown], [s.hypervolume for s in shown], s=13, color=BLUE, zorder=5)
    drawing.tag(marks, "rises", [Tip(growth_text(step)) for step in shown])
    axes.set_xlabel("candidates evaluated")
    axes.set_ylabel("hypervolume")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlim(0, 1.02 * last.evaluated)
    bottom = _bottom(growth)
    margin = 0.08 * max(last.hypervolume - bottom, 1e-6)
    axes.set_ylim(bottom - margin, last.hypervolume + margin)
    _draw_sizes(axes, growth)
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, marker="o", markersize=3.5, label="hypervolume"),
        Line2D([], [], color=ORANGE, linewidth=1.1, linestyle="--", label="front's size"),
        Line2D([], [], color=MUTED, linewidth=0.8, linestyle=":", label=f"after {early}"),
    ]
    legend_above(axes, handles)
    return drawing


def _draw_sizes(axes: Axes, growth: Sequence[FrontGrowth]) -> None:
    """The front's size as a thin line, with its scale at the right."""
    evaluated, sizes = [step.evaluated for step in growth], axes.twinx()
    sizes.step(
        evaluated, [step.front_size for step in growth], where="post", color=ORANGE, linewidth=1.1, linestyle="--"
    )
    sizes.set_ylabel("points on the front")
    sizes.set_ylim(0, 1.25 * max(step.front_size for step in growth))
    sizes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    sizes.grid(visible=False)
    # By default the twin is on top, and its empty background would hide the marks from the pointer.
    axes.set_zorder(sizes.get_zorder() + 1)
    axes.patch.set_visible(False)


def _bottom(growth: Sequence[FrontGrowth]) -> float:
    """The lower end of the scale: the first candidates, silent and all-to-all, give nearly all of the volume."""
    return growth[len(growth) // 40].hypervolume


def growth_text(step: FrontGrowth) -> str:
    """One step in one line."""
    return (
        f"after {format_count(step.evaluated, 'candidate')}: hypervolume {step.hypervolume:.4f}, "
        f"{step.front_size} on the front, best supernet accuracy {format_share(step.best_accuracy)}"
    )


def before_after_drawing(candidates: Sequence[CandidatePoint], early: int) -> Drawing:
    """The fronts after the first ``early`` candidates and at the end, with the best accuracy of each by payload."""
    figure, axes = new_axes(HALF_WIDTH_IN, _HEIGHT_IN)
    before = [candidate for candidate in candidates if candidate.on_early_front]
    after = [candidate for candidate in candidates if candidate.on_front]
    kept = sum(candidate.on_front for candidate in before)
    drawing = Drawing(
        "before-after",
        figure,
        f"The front after {format_count(early, 'candidate')} ({format_count(len(before), 'point')}) and at the "
        f"end ({format_count(len(after), 'point')}), payload bytes against accuracy; "
        f"{format_count(kept, 'point')} on both. All numbers are listed in the tables above.",
    )
    counts = [candidate.objectives["payload_bytes"] for candidate in (*before, *after)]
    right = max(counts) if max(counts) > 0 else 1.0
    old, new = _staircase(before, right), _staircase(after, right)
    axes.fill_between(*_between(old, new), step="post", color=BLUE, alpha=0.13, linewidth=0, zorder=1)
    axes.step(*old, where="post", color=ORANGE, linewidth=1.2, linestyle="--", zorder=3)
    axes.step(*new, where="post", color=BLUE, linewidth=1.6, zorder=4)
    for points, gid, look in (
        (before, "before", {"s": 60, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.3, "zorder": 5}),
        (after, "after", {"s": 20, "color": BLUE, "linewidths": 0, "zorder": 6}),
    ):
        x, y = [c.objectives["payload_bytes"] for c in points], [c.objectives["accuracy"] for c in points]
        marks = axes.scatter(x, y, clip_on=False, **look)  # type: ignore[arg-type]
        drawing.tag(marks, gid, [Tip(candidate_text(c), f"candidate-{c.index}") for c in points])
    axes.margins(0.06)
    scale_bytes(axes, counts)
    axes.set_xlabel(PAYLOAD_BYTES.axis_label)
    axes.set_ylabel("accuracy on the supernet")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    legend_above(axes, _before_after_handles(early))
    return drawing


def _before_after_handles(early: int) -> list[Artist]:
    return [
        Line2D(
            [], [], color=ORANGE, linewidth=1.2, linestyle="--", marker="o", markersize=7, mfc="none",
            label=f"after {format_count(early, 'candidate')}",
        ),
        Line2D([], [], color=BLUE, linewidth=1.6, marker="o", markersize=4, label="at the end"),
        Patch(color=BLUE, alpha=0.13, linewidth=0, label="gained"),
    ]  # fmt: skip


def _staircase(points: Sequence[CandidatePoint], right: float) -> tuple[list[float], list[float]]:
    """The best accuracy at each payload or less, in steps, up to the right edge."""
    ordered = sorted((c.objectives["payload_bytes"], c.objectives["accuracy"]) for c in points)
    best = np.maximum.accumulate([accuracy for _, accuracy in ordered])
    return [*(count for count, _ in ordered), right], [*best.tolist(), float(best[-1])]


def _between(
    old: tuple[list[float], list[float]], new: tuple[list[float], list[float]]
) -> tuple[list[float], list[float], list[float]]:
    """Both staircases at all their steps, from the first payload for which both are defined."""
    start = max(old[0][0], new[0][0])
    places = sorted({x for x in (*old[0], *new[0]) if x >= start})
    return places, [_at(old, x) for x in places], [_at(new, x) for x in places]


def _at(staircase: tuple[list[float], list[float]], x: float) -> float:
    return staircase[1][int(np.searchsorted(staircase[0], x, side="right")) - 1]
