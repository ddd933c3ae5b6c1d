"""Predicted against measured, on logarithmic scales."""

from __future__ import annotations

from pathlib import Path

from cells import Row
from matplotlib import rc_context
from matplotlib.figure import Figure

from sepnas.report.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RED, SETTINGS

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)


def draw(emulated: list[Row], real: list[Row], path: Path) -> None:
    """One mark a plan, a colour and a shape a cluster, the diagonal, and 8 % beside it."""
    groups: dict[str, list[Row]] = {}
    for row in emulated:
        groups.setdefault(row["cluster"], []).append(row)
    groups["two processes, real"] = real
    every = [row[key] for rows in groups.values() for row in rows for key in ("predicted_s", "measured_s")]
    ends = [0.8e3 * min(every), 1.25e3 * max(every)]
    with rc_context(dict(SETTINGS)):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.plot(ends, ends, color=MUTED, linewidth=0.8)
        axes.fill_between(ends, [0.92 * e for e in ends], [1.08 * e for e in ends], color=MUTED, alpha=0.2, linewidth=0)
        for (name, rows), colour, marker in zip(groups.items(), (*COLOURS, INK), "os^DvP", strict=False):
            points = ([1e3 * row[key] for row in rows] for key in ("predicted_s", "measured_s"))
            axes.plot(*points, marker, color=colour, markersize=4, label=name)
        axes.set(xscale="log", yscale="log", xlabel="predicted, ms", ylabel="measured, ms", xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.legend(frameon=False)
        figure.savefig(path, facecolor="white")
