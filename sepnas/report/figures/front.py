"""The Pareto front of a search: accuracy against one of its costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from sepnas.objectives import Objective
from sepnas.report.content import CandidatePoint, Objectives
from sepnas.report.figures.labels import label_points
from sepnas.report.figures.style import HALF_WIDTH_IN, INK, MUTED, RED, Drawing, Tip, legend_above, new_axes
from sepnas.units import format_bytes, format_count, format_seconds, format_share

# Blue to orange: distinguishable with any colour vision, and visible on white and on black.
COLOURS = LinearSegmentedColormap.from_list("latency", ["#1f6fc0", "#9a86a0", "#f0a020"], N=32)


@dataclass(frozen=True, slots=True)
class _Group:
    """Candidates drawn with the same marker."""

    gid: str
    caption: str
    holds: Callable[[CandidatePoint], bool]
    look: Mapping[str, Any]


_GROUPS = (
    _Group(
        "dominated",
        "dominated",
        lambda point: not point.on_front and point.label is None,
        {"marker": "o", "s": 16, "alpha": 0.38, "linewidths": 0, "zorder": 3},
    ),
    _Group(
        "front",
        "Pareto front",
        lambda point: point.on_front and point.label is None,
        {"marker": "o", "s": 34, "linewidths": 0.9, "edgecolors": INK, "zorder": 5},
    ),
    _Group(
        "named",
        "named policy",
        lambda point: point.label is not None,
        {"marker": "D", "s": 40, "linewidths": 1.1, "edgecolors": INK, "zorder": 6},
    ),
)


@dataclass(frozen=True, slots=True)
class AccuracyWords:
    """What accuracies of candidates are called: on an axis, and in a sentence."""

    axis: str
    short: str


SUPERNET = AccuracyWords("accuracy on the supernet", "supernet accuracy")


@dataclass(frozen=True, slots=True)
class Original:
    """The network that candidates are made from, on one device; it sends nothing between devices."""

    name: str
    accuracy: float
    costs: Objectives


def front_drawing(
    candidates: Sequence[CandidatePoint],
    horizontal: Objective,
    cluster: str = "",
    words: AccuracyWords = SUPERNET,
    original: Original | None = None,
) -> Drawing:
    """Every candidate: accuracy upwards, ``horizontal`` to the right, latency (on ``cluster``) as colour.

    A line joins the candidates with the best accuracy for their cost; the knee and the chosen one are marked, and so is
    the ``original``, at its costs unless they are bytes.
    """
    figure, axes = new_axes(HALF_WIDTH_IN, 4.0)
    drawing = Drawing(f"front-{_slug(horizontal)}", figure, _description(candidates, horizontal, words))
    latencies = [candidate.objectives["latency_s"] for candidate in candidates]
    norm = Normalize(min(latencies), max(max(latencies), 1.000001 * min(latencies), 1e-9))
    handles = []
    for group in _GROUPS:
        members = [candidate for candidate in candidates if group.holds(candidate)]
        if members:
            _draw(drawing, axes, group, members, horizontal, norm, words)
            handles.append(_handle(group))
    handles += _join_best(axes, candidates, horizontal)
    handles += _mark(axes, candidates, horizontal)
    handles += _mark_original(axes, original, horizontal) if original else []
    _scale(axes, candidates, horizontal, words)
    if horizontal.of_cluster and cluster:
        axes.set_xlabel(f"{horizontal.axis_label} for cluster {cluster}")
    _colour_bar(axes, norm)
    legend_above(axes, handles)
    _label(axes, candidates, horizontal)
    return drawing


def _slug(objective: Objective) -> str:
    """The name without its unit: ``payload``, ``latency``."""
    return objective.name.rpartition("_")[0].replace("_", "-")


def candidate_text(candidate: CandidatePoint, words: AccuracyWords = SUPERNET) -> str:
    """A candidate's numbers in one line."""
    objectives = candidate.objectives
    name = f"candidate {candidate.index}" + (f" ({candidate.label})" if candidate.label else "")
    accuracy, latency = format_share(objectives["accuracy"]), format_seconds(objectives["latency_s"])
    notes = (("on the front", candidate.on_front), ("the knee", candidate.knee), ("chosen", candidate.chosen))
    end = "".join(f", {note}" for note, holds in notes if holds)
    return f"{name}: {words.short} {accuracy}, latency {latency}, {format_bytes(objectives['payload_bytes'])}{end}"


def _draw(
    drawing: Drawing,
    axes: Axes,
    group: _Group,
    members: Sequence[CandidatePoint],
    horizontal: Objective,
    norm: Normalize,
    words: AccuracyWords,
) -> None:
    marks = axes.scatter(
        [member.objectives[horizontal.name] for member in members],
        [member.objectives["accuracy"] for member in members],
        c=[member.objectives["latency_s"] for member in members],
        cmap=COLOURS,
        norm=norm,
        clip_on=False,
        **group.look,
    )
    tips = [Tip(candidate_text(member, words), f"candidate-{member.index}") for member in members]
    drawing.tag(marks, group.gid, tips)


def _handle(group: _Group) -> Artist:
    bare = group.gid == "dominated"
    return Line2D(
        [],
        [],
        linestyle="none",
        label=group.caption,
        marker=group.look["marker"],
        markersize=4 if bare else 5.5,
        markerfacecolor=MUTED,
        markeredgecolor="none" if bare else INK,
        alpha=0.5 if bare else 1.0,
    )


def _join_best(axes: Axes, candidates: Sequence[CandidatePoint], horizontal: Objective) -> list[Artist]:
    """A line through the points of the front with the best accuracy at no more than their ``horizontal`` cost."""
    best: list[tuple[float, float]] = []
    for x, accuracy in sorted(
        (c.objectives[horizontal.name], c.objectives["accuracy"]) for c in candidates if c.on_front
    ):
        if not best or accuracy > best[-1][1]:
            best.append((x, accuracy))
    if len(best) < 2:
        return []
    places, heights = zip(*best, strict=True)
    axes.plot(places, heights, color=MUTED, linewidth=1.1, zorder=4, clip_on=False)
    return [Line2D([], [], color=MUTED, linewidth=1.1, label="best accuracy at each cost")]


def _mark(axes: Axes, candidates: Sequence[CandidatePoint], horizontal: Objective) -> list[Artist]:
    """A ring around the chosen candidate, a diamond around the knee."""
    handles: list[Artist] = []
    for label, marker, colour, size in (("chosen", "o", RED, 230), ("knee", "D", INK, 75)):
        found = [c.objectives for c in candidates if (c.chosen if label == "chosen" else c.knee)]
        if found:
            look: dict[str, Any] = {"facecolors": "none", "edgecolors": colour, "linewidths": 2.0, "s": size}
            xs, ys = [c[horizontal.name] for c in found], [c["accuracy"] for c in found]
            axes.scatter(xs, ys, marker=marker, clip_on=False, zorder=10, **look)
            one: dict[str, Any] = {"marker": marker, "markersize": 8, "mfc": "none", "mec": colour, "mew": 1.8}
            handles.append(Line2D([], [], linestyle="none", label=label, **one))
    return handles


def _mark_original(axes: Axes, original: Original, horizontal: Objective) -> list[Artist]:
    """A dashed line at the original's accuracy, and a square at its cost."""
    axes.axhline(original.accuracy, color=MUTED, linestyle="--", linewidth=1.1, zorder=2)
    marker = ""
    if not horizontal.quantity.whole or original.costs[horizontal.name] > 0:
        marker = "s"
        axes.scatter([original.costs[horizontal.name]], [original.accuracy], marker=marker, color=MUTED, zorder=4)
    look: dict[str, Any] = {"color": MUTED, "linestyle": "--", "linewidth": 1.1, "marker": marker}
    return [Line2D([], [], label=original.name, **look)]


def _scale(axes: Axes, candidates: Sequence[CandidatePoint], horizontal: Objective, words: AccuracyWords) -> None:
    axes.set_xlabel(horizontal.axis_label)
    axes.set_ylabel(words.axis)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.margins(0.06)
    if horizontal.quantity.whole:
        scale_bytes(axes, [candidate.objectives[horizontal.name] for candidate in candidates])
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: horizontal.quantity.format(value)))
        axes.locator_params(axis="x", nbins=5)


def scale_bytes(axes: Axes, counts: Sequence[float]) -> None:
    """A log scale; if there are silent policies, zero is at its left, a short linear stretch before the first tick."""
    positive = [count for count in counts if count > 0]
    if not positive:
        return
    ticks = _ticks(min(positive), max(positive))
    first, last = ticks[0], ticks[-1]
    if min(counts) <= 0:
        # over many decades the linear stretch must be longer, to separate the label of zero
        axes.set_xscale("symlog", linthresh=first, linscale=max(0.35, 0.12 * log10(last / first)), subs=[])
        axes.set_xlim(-0.12 * first, 1.1 * last)
        ticks.insert(0, 0.0)
    else:
        axes.set_xscale("log")
        axes.set_xlim(0.9 * first, 1.1 * last)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))


def _ticks(lowest: float, highest: float) -> list[float]:
    """Round numbers that enclose both limits, about six at most."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        powers = range(floor(log10(lowest)), ceil(log10(highest)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps]
        first = max(tick for tick in ticks if tick <= lowest * 1.000001)
        last = min((tick for tick in ticks if tick >= highest * 0.999999), default=ticks[-1])
        ticks = [tick for tick in ticks if first <= tick <= last]
        if len(ticks) <= 6:
            break
    return ticks


def _colour_bar(axes: Axes, norm: Normalize) -> None:
    figure = axes.figure
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, fraction=0.045, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    # Without an outline in their own colour, the patches show light seams between them.
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))
    bar.ax.tick_params(length=2)
    bar.set_label("latency")


def _label(axes: Axes, candidates: Sequence[CandidatePoint], horizontal: Objective) -> None:
    points = [(candidate.objectives[horizontal.name], candidate.objectives["accuracy"]) for candidate in candidates]
    labels = []
    for candidate, (x, y) in zip(candidates, points, strict=True):
        words = [candidate.label] if candidate.label else []
        roles = [role for role, holds in (("chosen", candidate.chosen), ("knee", candidate.knee)) if holds]
        words += [f"{', '.join(roles)}: {candidate.index}"] if roles else []
        if words:
            labels.append((", ".join(words), x, y))
    label_points(axes, labels, points)


def _description(candidates: Sequence[CandidatePoint], horizontal: Objective, words: AccuracyWords) -> str:
    on_front = sum(candidate.on_front for candidate in candidates)
    best = max(candidates, key=lambda candidate: candidate.objectives["accuracy"])
    return (
        f"Scatter plot of {horizontal.label} against accuracy: {format_count(len(candidates), 'candidate')}, "
        f"{on_front} on the Pareto front. The most accurate is {candidate_text(best, words)}. "
        "All numbers are listed in the table below."
    )
