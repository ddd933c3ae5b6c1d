"""Colours, fonts and empty figures.

The hues are those of Okabe and Ito, distinguishable with all common kinds of colour vision. Each colour becomes a
variable of the page's style sheet (``svg.py``), so one picture serves the light and dark themes and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6873", "#dfe3e8", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"

VARIABLES: Mapping[str, str] = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    RED: "red",
}

SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",
    # Names are data: a dollar sign in one must not start a formula.
    "text.parse_math": False,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
}

HALF_WIDTH_IN = 5.4
"""Width of a picture that shares its row on a wide screen, in inches."""

FULL_WIDTH_IN = 10.8


@dataclass(frozen=True, slots=True)
class Tip:
    """The tooltip of a mark; marks with the same ``key`` are highlighted together on the whole page."""

    text: str
    key: str = ""


@dataclass(slots=True)
class Drawing:
    """A figure with the tooltips of its marks, and a description for screen readers.

    ``tips`` maps the gid of a collection to one tip for each of its marks, in order.
    """

    name: str
    figure: Figure
    description: str
    tips: dict[str, Sequence[Tip]] = field(default_factory=dict)

    def tag(self, artist: Artist, gid: str, tips: Sequence[Tip]) -> None:
        """Set the tips of a collection's marks."""
        artist.set_gid(gid)
        self.tips[gid] = tips


def new_axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def legend_above(axes: Axes, handles: Sequence[Artist], columns: int = 5) -> None:
    """A legend above the axes, where it covers no data."""
    if handles:
        axes.figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, borderaxespad=0.2)
