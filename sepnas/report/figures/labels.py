"""Places labels beside points, where they cover the least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from sepnas.report.figures.style import INK, PAPER, SETTINGS

_FONT_PT = float(SETTINGS["legend.fontsize"])
# Possible positions of a label: direction in x and y, best first.
_DIRECTIONS = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
_DISTANCES_PT = (9.5, 15.0, 22.0)


def label_points(axes: Axes, labels: Sequence[tuple[str, float, float]], points: Sequence[tuple[float, float]]) -> None:
    """Write each ``(text, x, y)`` near its point, inside the axes, clear of the other ``points`` and labels.

    Call it after the limits and scales of ``axes`` are final.
    """
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()
    pixels = axes.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    taken: list[Bbox] = []
    for text, x, y in labels:
        at = axes.transData.transform((x, y))
        offset, box = _best_place(text, at, pixels, taken, axes.get_window_extent(), figure.dpi / 72)
        taken.append(box)
        align = {-1: "right", 0: "center", 1: "left"}[int(np.sign(offset[0]))]
        axes.annotate(
            text,
            (x, y),
            xytext=offset,
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=_FONT_PT,
            color=INK,
            zorder=9,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
            bbox={"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 1.0},
        )


def _best_place(
    text: str, at: np.ndarray, pixels: np.ndarray, taken: Sequence[Bbox], inside: Bbox, pixels_per_pt: float
) -> tuple[tuple[float, float], Bbox]:
    places = []
    for distance in _DISTANCES_PT:
        for dx, dy in _DIRECTIONS:
            offset = (dx * distance, dy * distance * (1.0 if dx == 0 else 0.8))
            box = _box(text, at, offset, pixels_per_pt)
            cost = 10.0 * sum(box.overlaps(other) for other in taken) + box.count_contains(pixels)
            cost += 100.0 * (not (inside.contains(*box.min) and inside.contains(*box.max)))
            places.append((cost + distance / 100, offset, box))
    best = min(places, key=lambda place: place[0])
    return best[1], best[2]


def _box(text: str, at: np.ndarray, offset: tuple[float, float], pixels_per_pt: float) -> Bbox:
    """The approximate box of the text; the browser's font is unknown here."""
    width, height = 0.6 * _FONT_PT * len(text) * pixels_per_pt, 1.4 * _FONT_PT * pixels_per_pt
    x, y = at[0] + offset[0] * pixels_per_pt, at[1] + offset[1] * pixels_per_pt
    left = {-1: x - width, 0: x - width / 2, 1: x}[int(np.sign(offset[0]))]
    return Bbox.from_bounds(left, y - height / 2, width, height)
