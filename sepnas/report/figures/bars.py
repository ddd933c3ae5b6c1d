"""Comparisons of two numbers: bytes of each link, accuracy of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from sepnas.cost.timeline import rank_name
from sepnas.report.content import ClassAccuracy, ShownLink
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
from sepnas.units import format_bytes, format_count, format_share

_SHORTEN_FROM = 24


def link_name(link: ShownLink) -> str:
    """``0 → 1``."""
    ends = (rank_name(rank).removeprefix("device ") for rank in (link.source, link.destination))
    return " → ".join(ends)


def links_drawing(links: Sequence[ShownLink]) -> Drawing:
    """A pair of bars for each link, predicted above counted."""
    figure, axes = new_axes(HALF_WIDTH_IN, 1.1 + 0.34 * len(links))
    drawing = Drawing("links", figure, _links_description(links))
    places = np.arange(len(links))
    for shift, colour, counts in (
        (-0.19, BLUE, [link.predicted for link in links]),
        (0.19, ORANGE, [link.counted for link in links]),
    ):
        axes.barh(places + shift, counts, height=0.36, color=colour)
    axes.set_yticks(places, [link_name(link) for link in links])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    axes.set_xlabel("payload of one inference")
    axes.set_ylabel("link (sender → receiver)")
    legend_above(axes, [Patch(color=BLUE, label="predicted"), Patch(color=ORANGE, label="counted")])
    return drawing


def classes_drawing(classes: Sequence[ClassAccuracy]) -> Drawing:
    """On each class's line, a dot for the whole network and a ring for the devices."""
    figure, axes = new_axes(HALF_WIDTH_IN, 0.9 + 0.24 * len(classes))
    drawing = Drawing("classes", figure, _classes_description(classes))
    places = np.arange(len(classes))
    whole, devices = [c.whole for c in classes], [c.devices for c in classes]
    axes.hlines(places, np.minimum(whole, devices), np.maximum(whole, devices), color=MUTED, linewidth=1, zorder=2)
    dots = axes.scatter(whole, places, s=22, color=BLUE, zorder=3, clip_on=False)
    ring: dict[str, Any] = {"s": 70, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.8, "zorder": 4}
    rings = axes.scatter(devices, places, clip_on=False, **ring)
    drawing.tag(dots, "whole", [Tip(f"{c.name}: {format_share(c.whole)} by the whole network") for c in classes])
    drawing.tag(rings, "devices", [Tip(f"{c.name}: {format_share(c.devices)} through the devices") for c in classes])
    axes.set_yticks(places, [short_name(c.name) for c in classes])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("accuracy")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend_above(axes, [_marker("whole network", BLUE, 5), _marker("through the devices", ORANGE, 8)])
    return drawing


def _marker(caption: str, colour: str, size: float) -> Line2D:
    fill = colour if colour == BLUE else "none"
    return Line2D([], [], linestyle="none", marker="o", markersize=size, mfc=fill, mec=colour, mew=1.6, label=caption)


def short_name(name: str) -> str:
    """A class's name, cut to fit beside a picture."""
    return name if len(name) <= _SHORTEN_FROM else name[: _SHORTEN_FROM - 1] + "…"


def _links_description(links: Sequence[ShownLink]) -> str:
    predicted, counted = sum(x.predicted for x in links), sum(x.counted for x in links)
    return (
        f"Bars of the payload bytes on {format_count(len(links), 'link')}: {predicted} predicted and {counted} counted "
        "in all. Each link is listed in the table below."
    )


def _classes_description(classes: Sequence[ClassAccuracy]) -> str:
    worst = min(classes, key=lambda c: c.whole)
    return (
        f"Accuracy of {format_count(len(classes), 'class')}, by the whole network and through the devices; lowest for "
        f"{worst.name} with {format_share(worst.whole)}. Each class is listed in the table below."
    )
