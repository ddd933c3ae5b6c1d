"""All ways to run networks on one cluster: latency against accuracy, bytes and the number of devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from sepnas.report.comparison.values import Comparison, PricedPlan
from sepnas.report.figures.front import scale_bytes
from sepnas.report.figures.labels import label_points
from sepnas.report.figures.style import (
    BLUE,
    GREEN,
    HALF_WIDTH_IN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    Drawing,
    Tip,
    legend_above,
    new_axes,
)
from sepnas.units import format_bytes, format_count, format_seconds, format_share

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
"""Series beyond these have them hollow."""
_HEIGHT_IN = 4.4
_FEW, _MANY = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
_WIDE = 12.0
"""An axis whose ends have a larger ratio has few ticks a decade."""


@dataclass(frozen=True, slots=True)
class _Look:
    """Colour and marker of a series: together they identify it."""

    colour: str
    marker: str
    hollow: bool = False

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour


@dataclass(frozen=True, slots=True)
class _Way:
    """A horizontal value of a plan; ``joins_fronts``: a line joins the separable networks of one search."""

    value: Callable[[PricedPlan], float]
    label: str
    name: str
    joins_fronts: bool = True


def bytes_drawing(comparison: Comparison, total: bool = False) -> Drawing:
    """Latency against the bytes between devices, or those of all messages; one device alone is a line."""
    way = (
        _Way(lambda plan: plan.total_bytes, "payload of all messages of one inference", "total-bytes")
        if total
        else _Way(lambda plan: plan.payload_bytes, "payload between devices of one inference", "payload")
    )
    drawing, axes = _drawing(comparison, way)
    scale_bytes(axes, [way.value(plan) for plan in comparison.plans])
    _finish(drawing, axes, comparison, way)
    return drawing


def devices_drawing(comparison: Comparison) -> Drawing:
    """Latency against the number of devices that compute."""
    way = _Way(lambda plan: plan.num_devices, "devices that compute", "devices", joins_fronts=False)
    drawing, axes = _drawing(comparison, way)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    _finish(drawing, axes, comparison, way)
    return drawing


def accuracy_drawing(comparison: Comparison) -> Drawing:
    """Accuracy against latency; one device alone is a vertical line."""
    figure, axes = new_axes(HALF_WIDTH_IN, _HEIGHT_IN)
    known = [plan for plan in comparison.plans if plan.accuracy is not None]
    drawing = Drawing("compare-accuracy", figure, _description(comparison, "accuracy"))
    for number, (series, look) in enumerate(looks(comparison).items()):
        mine = sorted((plan for plan in known if _series(plan) == series), key=lambda plan: plan.latency_s)
        if mine:
            _points(drawing, axes, mine, look, number, lambda plan: plan.latency_s, lambda plan: plan.accuracy or 0.0)
    axes.set_xscale("log")
    _scale_seconds(axes, "x")
    axes.set_xlabel(f"latency predicted for cluster {comparison.cluster}")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.margins(0.1)
    for alone in comparison.alone:
        axes.axvline(alone.latency_s, color=INK, linewidth=1.2, linestyle=(0, (5, 2)), zorder=2)
    legend_above(axes, _handles(comparison, known), columns=4)
    best = _notable(known)
    label_points(
        axes,
        [(p.label, p.latency_s, p.accuracy or 0.0) for p in best],
        [(p.latency_s, p.accuracy or 0.0) for p in known],
    )
    return drawing


def looks(comparison: Comparison) -> dict[str, _Look]:
    """The look of each series, in the order of the comparison."""
    found: dict[str, _Look] = {}
    for plan in comparison.plans:
        series = _series(plan)
        if series not in found and plan.family == "separable":
            found[series] = _Look(INK, "D" if "D" not in {look.marker for look in found.values()} else "d")
        elif series not in found:
            number = len(found)
            hollow = number // len(_MARKERS) % 2 == 1
            found[series] = _Look(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], hollow)
    return found


def _series(plan: PricedPlan) -> str:
    return f"{plan.series} of {plan.network}" if plan.family == "split" else plan.series


def _drawing(comparison: Comparison, way: _Way) -> tuple[Drawing, Axes]:
    figure, axes = new_axes(HALF_WIDTH_IN, _HEIGHT_IN)
    drawing = Drawing(f"compare-{way.name}", figure, _description(comparison, way.label))
    for number, (series, look) in enumerate(looks(comparison).items()):
        mine = [plan for plan in comparison.plans if _series(plan) == series]
        is_front = mine[0].family == "separable"
        mine.sort(key=lambda plan: (way.value(plan) if is_front else plan.num_devices, plan.payload_bytes))
        joined = way.joins_fronts or not is_front
        _points(drawing, axes, mine, look, number, way.value, lambda plan: plan.latency_s, joined)
    axes.set_yscale("log")
    return drawing, axes


def _points(
    drawing: Drawing,
    axes: Axes,
    plans: Sequence[PricedPlan],
    look: _Look,
    number: int,
    x: Callable[[PricedPlan], float],
    y: Callable[[PricedPlan], float],
    joined: bool = True,
) -> None:
    xs, ys = [x(plan) for plan in plans], [y(plan) for plan in plans]
    if joined and len(plans) > 1:
        axes.plot(xs, ys, color=look.colour, linewidth=0.9, alpha=0.5, zorder=3)
    outline: dict[str, Any] = {
        "facecolors": look.face,
        "edgecolors": look.colour,
        "linewidths": 1.3 if look.hollow else 0,
    }
    marks = axes.scatter(xs, ys, s=30, marker=look.marker, zorder=5, clip_on=False, **outline)
    drawing.tag(marks, f"series-{number}", [Tip(plan_text(plan), plan.key) for plan in plans])


def plan_text(plan: PricedPlan) -> str:
    """A plan's numbers in one line."""
    accuracy = "" if plan.accuracy is None else f", accuracy {format_share(plan.accuracy)}"
    return (
        f"{plan.network}, {plan.label}: {format_seconds(plan.latency_s)}, {format_bytes(plan.payload_bytes)} between "
        f"devices, {format_bytes(plan.total_bytes)} in all{accuracy}"
    )


def _finish(drawing: Drawing, axes: Axes, comparison: Comparison, way: _Way) -> None:
    for alone in comparison.alone:
        axes.axhline(alone.latency_s, color=INK, linewidth=1.2, linestyle=(0, (5, 2)), zorder=2)
    _scale_seconds(axes, "y")
    axes.set_xlabel(way.label)
    axes.set_ylabel(f"latency predicted for cluster {comparison.cluster}")
    legend_above(axes, _handles(comparison, comparison.plans), columns=4)
    points = [(way.value(plan), plan.latency_s) for plan in comparison.plans]
    best = _notable(comparison.plans)
    label_points(axes, [(plan.label, way.value(plan), plan.latency_s) for plan in best], points)


def _notable(plans: Sequence[PricedPlan]) -> list[PricedPlan]:
    """The fastest split of each network, the fastest separable network, and plans from files."""
    found: dict[tuple[str, str], PricedPlan] = {}
    for plan in sorted(plans, key=lambda plan: plan.latency_s):
        key = plan.family, plan.network if plan.family != "plan" else plan.label
        found.setdefault(key, plan)
    return list(found.values())


def _scale_seconds(axes: Axes, which: str) -> None:
    axis, limits = (axes.yaxis, axes.get_ylim()) if which == "y" else (axes.xaxis, axes.get_xlim())
    axis.set_major_locator(LogLocator(subs=_FEW if limits[1] > _WIDE * limits[0] else _MANY))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))


def _handles(comparison: Comparison, shown: Sequence[PricedPlan]) -> list[Artist]:
    several = len(comparison.alone) > 1
    names = {_series(plan): _series(plan) if several else plan.series for plan in shown}
    handles: list[Artist] = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, markersize=5, mfc=look.face, linewidth=0.9,
            label=names[series],
        )
        for series, look in looks(comparison).items()
        if series in names
    ]  # fmt: skip
    if comparison.alone:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (5, 2)), label="one device alone"))
    return handles


def _description(comparison: Comparison, against: str) -> str:
    alone = "; ".join(f"{plan.label} takes {format_seconds(plan.latency_s)}" for plan in comparison.alone)
    return (
        f"Latency against {against} for {format_count(len(comparison.plans), 'plan')} on cluster {comparison.cluster}"
        f"{f' ({alone})' if alone else ''}. Each plan is listed in the table below."
    )
