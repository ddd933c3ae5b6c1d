"""Parallel coordinates of policies: one axis per number, one line per candidate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from sepnas.objectives import ACCURACY, ACCURACY_ONE_LOST, LATENCY_S, OBJECTIVES, PAYLOAD_BYTES, is_evaluated
from sepnas.report.content import CandidatePoint
from sepnas.report.figures.front import COLOURS, candidate_text
from sepnas.report.figures.style import FULL_WIDTH_IN, INK, MUTED, PAPER, RED, Drawing, Tip, legend_above, new_axes

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "dominated": {"linewidths": 0.7, "alpha": 0.22, "zorder": 2},
    "front": {"linewidths": 1.5, "alpha": 0.95, "zorder": 4},
    "chosen": {"linewidths": 2.6, "zorder": 7},
}

_FEW = 5
"""Maximum number of distinct values that each get a tick of their own."""

CAPTION_WIDTH = 14
"""Characters per line of an axis caption."""

_LINE_HEIGHT = 0.055
"""Height of a line of text, relative to the height of the axes."""

_ABOVE_ZERO = 0.12
"""Height of the smallest positive payload on its logarithmic axis, if zero occurs; zero is at 0."""


@dataclass(frozen=True, slots=True)
class _Axis:
    caption: str
    text: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


_TRAITS: dict[str, _Axis] = {
    "depth": _Axis("depth", "{:g}".format),
    "cardinality": _Axis("cardinality", "{:g}".format),
    "width": _Axis("bottleneck\nwidth", "{:.3g}".format),
    "points_share": _Axis("points\nused", _percent),
    "num_transfers": _Axis("transfers", "{:.0f}".format),
    "mean_fraction": _Axis("channels\nsent", _percent),
    "mean_wire_bits": _Axis("bits of a\nnumber", "{:.3g}".format),
    "lag_share": _Axis("lagged", _percent),
}
_ALWAYS = (PAYLOAD_BYTES.name, LATENCY_S.name, ACCURACY.name)
"""Objectives that have an axis even if all candidates have the same value."""


def parallel_drawing(candidates: Sequence[CandidatePoint], objectives: Sequence[str] = _ALWAYS) -> Drawing:
    """Every candidate as a line from its policy's traits to its ``objectives``; the colour is its accuracy.

    A number that is the same for all candidates with transfers has no axis.
    """
    known = {*candidates[0].objectives, *candidates[0].traits}
    names = [name for name in (*_TRAITS, *_in_order({*_ALWAYS, *objectives})) if name in known]
    columns = {name: [_value(candidate, name) for candidate in candidates] for name in names}
    sending = [candidate for candidate in candidates if candidate.traits["num_transfers"]]
    shown = [name for name in columns if name in _ALWAYS or len({_value(candidate, name) for candidate in sending}) > 1]
    figure, axes = new_axes(FULL_WIDTH_IN, 4.3)
    drawing = Drawing("parallel", figure, _description(candidates, shown))
    scales = {name: _scale_of(name, columns[name]) for name in shown}
    heights = np.array([[scales[name](value) for value in columns[name]] for name in shown]).T
    accuracies = columns["accuracy"]
    # without the quantile, a few bad candidates would take half of the colours
    norm = Normalize(float(np.quantile(accuracies, 0.1)), max(accuracies), clip=True)
    for place, name in enumerate(shown):
        _draw_axis(axes, place, name, columns[name], scales[name])
    _paint_accuracy(axes, len(shown) - 1, columns["accuracy"], norm)
    _draw_lines(drawing, axes, candidates, heights, norm)
    _finish(axes, candidates, heights)
    return drawing


def _in_order(objectives: Collection[str]) -> list[str]:
    """The payload first, then the other costs, and accuracy last, because it is the legend of the colours."""
    first = {PAYLOAD_BYTES.name: -1, ACCURACY_ONE_LOST.name: len(OBJECTIVES), ACCURACY.name: len(OBJECTIVES) + 1}
    return sorted(objectives, key=lambda name: first.get(name, list(OBJECTIVES).index(name)))


def _axis(name: str) -> _Axis:
    if name in _TRAITS:
        return _TRAITS[name]
    objective = OBJECTIVES[name]
    caption = objective.heading if is_evaluated(name) else fill(objective.label, CAPTION_WIDTH)
    return _Axis(caption, objective.quantity.format)


def _is_count(name: str) -> bool:
    return name in OBJECTIVES and OBJECTIVES[name].quantity.whole


def _value(candidate: CandidatePoint, name: str) -> float:
    return candidate.objectives[name] if name in candidate.objectives else candidate.traits[name]


def _scale_of(name: str, values: Sequence[float]) -> Callable[[float], float]:
    """The map from a value to its height, 0 to 1; logarithmic for bytes, which span decades."""
    low, high = min(values), max(values)
    if not _is_count(name) or high <= 0:
        return lambda value: (value - low) / (high - low) if high > low else 0.5
    first = min(value for value in values if value > 0)
    start, span = (_ABOVE_ZERO, log(high / first)) if low <= 0 else (0.0, log(high / first))
    return lambda value: 0.0 if value <= 0 else start + (1 - start) * (log(value / first) / span if span else 1.0)


def _draw_axis(axes: Axes, place: int, name: str, values: Sequence[float], scale: Callable[[float], float]) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=1.0, zorder=5)
    axes.text(place, 1.07, _axis(name).caption, ha="center", va="bottom", fontsize=8.5, color=INK)
    text = _axis(name).text
    for value in _apart(_ticks(name, values), scale):
        axes.annotate(
            text(value),
            (place, scale(value)),
            (-3, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7.5,
            color=INK,
            zorder=9,
            bbox={"facecolor": PAPER, "alpha": 0.78, "edgecolor": "none", "pad": 0.8},
        )


def _ticks(name: str, values: Sequence[float]) -> list[float]:
    distinct = sorted(set(values))
    if len(distinct) <= _FEW:
        return distinct
    if _is_count(name):
        positive = [value for value in distinct if value > 0]
        return [value for value in distinct if value <= 0] + list(np.geomspace(positive[0], positive[-1], 4))
    return list(np.linspace(distinct[0], distinct[-1], 5))


def _apart(ticks: Sequence[float], scale: Callable[[float], float]) -> list[float]:
    """The ticks whose labels do not overlap; both ends are kept."""
    kept = [ticks[0]]
    for value in ticks[1:-1]:
        if min(scale(value) - scale(kept[-1]), scale(ticks[-1]) - scale(value)) >= _LINE_HEIGHT:
            kept.append(value)
    return kept if len(ticks) == 1 else [*kept, ticks[-1]]


def _paint_accuracy(axes: Axes, place: int, values: Sequence[float], norm: Normalize) -> None:
    """Colour the axis of accuracy as the legend of the colours."""
    pieces = list(pairwise(np.linspace(0, 1, 33)))
    low, high = min(values), max(values)
    colours = [COLOURS(norm(low + (high - low) * (bottom + top) / 2)) for bottom, top in pieces]
    # pieces overlap slightly, to hide light seams between them
    strip = [[(place, bottom), (place, min(1.0, top + 0.01))] for bottom, top in pieces]
    axes.add_collection(LineCollection(strip, colors=colours, linewidths=7, zorder=6, capstyle="butt"))


def _draw_lines(
    drawing: Drawing, axes: Axes, candidates: Sequence[CandidatePoint], heights: np.ndarray, norm: Normalize
) -> None:
    """Draw dominated candidates thin and pale, the front above them, and the chosen one on top."""
    groups = ["chosen" if c.chosen else "front" if c.on_front else "dominated" for c in candidates]
    for gid, look in _LOOKS.items():
        members = [index for index, group in enumerate(groups) if group == gid]
        if not members:
            continue
        colours = [RED if gid == "chosen" else COLOURS(norm(candidates[i].objectives["accuracy"])) for i in members]
        lines = LineCollection([list(enumerate(heights[i])) for i in members], colors=colours, **look)
        axes.add_collection(lines)
        tips = [Tip(_text(candidates[i]), f"candidate-{candidates[i].index}") for i in members]
        drawing.tag(lines, f"lines-{gid}", tips)


def _text(candidate: CandidatePoint) -> str:
    return f"{candidate_text(candidate)}: {candidate.phrase}" if candidate.phrase else candidate_text(candidate)


def _finish(axes: Axes, candidates: Sequence[CandidatePoint], heights: np.ndarray) -> None:
    names = len(heights[0])
    axes.set_xlim(-0.62, names - 1 + 0.5)
    axes.set_ylim(-0.05, 1.2)
    axes.set_axis_off()
    _name_ends(axes, candidates, heights)
    handles = [Line2D([], [], color=MUTED, linewidth=0.7, alpha=0.6, label="dominated")]
    handles += [Line2D([], [], color=INK, linewidth=1.5, label="Pareto front (coloured by accuracy)")]
    if any(candidate.chosen for candidate in candidates):
        handles += [Line2D([], [], color=RED, linewidth=2.6, label="chosen")]
    legend_above(axes, handles)


def _name_ends(axes: Axes, candidates: Sequence[CandidatePoint], heights: np.ndarray) -> None:
    """Label the chosen candidate and the knee at the right, without overlap even if their lines end close together."""
    ends: list[tuple[float, str, str]] = []
    for candidate, line in zip(candidates, heights, strict=True):
        words = [word for word, holds in (("chosen", candidate.chosen), ("knee", candidate.knee)) if holds]
        if words:
            ends.append((line[-1], f"{', '.join(words)}: {candidate.index}", RED if candidate.chosen else INK))
    lowest = -1.0
    for height, text, colour in sorted(ends):
        lowest = max(height, lowest + _LINE_HEIGHT)
        at = (heights.shape[1] - 1, lowest)
        axes.annotate(text, at, (8, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour)


def _description(candidates: Sequence[CandidatePoint], shown: Sequence[str]) -> str:
    captions = ", ".join(_axis(name).caption.replace("\n", " ") for name in shown)
    return (
        f"Parallel coordinates of {len(candidates)} candidates, an axis each for {captions}; those on the Pareto "
        "front stand out. The front's numbers are listed in the table below."
    )
