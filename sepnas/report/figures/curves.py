"""Training curves: one value per epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, PercentFormatter

from sepnas.report.content import Curve
from sepnas.report.figures.style import (
    BLUE,
    GREEN,
    HALF_WIDTH_IN,
    ORANGE,
    PURPLE,
    RED,
    Drawing,
    Tip,
    legend_above,
    new_axes,
)

# Colour, dash and marker: each alone identifies the curve.
_LOOKS = (
    (BLUE, "solid", "o"),
    (ORANGE, "dashed", "s"),
    (GREEN, "dashdot", "^"),
    (PURPLE, "dotted", "D"),
    (RED, "solid", "v"),
)


def curves_drawing(name: str, panel: str, curves: Sequence[Curve]) -> Drawing:
    """The curves of one panel; the accuracy panel is in percent."""
    figure, axes = new_axes(HALF_WIDTH_IN, 2.9)
    drawing = Drawing(name, figure, _description(panel, curves))
    handles = []
    for number, curve in enumerate(curves):
        colour, dash, marker = _LOOKS[number % len(_LOOKS)]
        epochs = list(epochs_of(curve))
        handles += axes.plot(epochs, curve.values, color=colour, linestyle=dash, linewidth=1.6, label=curve.name)
        if len(epochs) <= 60:
            marks = axes.scatter(epochs, curve.values, s=14, color=colour, marker=marker, zorder=4)
            tips = [Tip(f"{curve.name}, epoch {e}: {v:.4g}") for e, v in zip(epochs, curve.values, strict=True)]
            drawing.tag(marks, f"curve-{number}", tips)
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if is_share(panel):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    legend_above(axes, handles, columns=3)
    return drawing


def epochs_of(curve: Curve) -> range:
    """The epochs of its values."""
    return range(curve.first_epoch, curve.first_epoch + len(curve.values))


def is_share(panel: str) -> bool:
    """Whether the panel's values are shares from 0 to 1."""
    return "accuracy" in panel.lower()


def _description(panel: str, curves: Sequence[Curve]) -> str:
    ends = [f"{c.name} goes from {c.values[0]:.4g} to {c.values[-1]:.4g}" for c in curves if c.values]
    return f"Training curves of {panel}: {'; '.join(ends)}."
