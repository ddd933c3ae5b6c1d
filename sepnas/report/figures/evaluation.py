"""Pictures of an evaluation: bars of classes, a confusion matrix, a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from sepnas.report.figures.bars import short_name
from sepnas.report.figures.style import (
    BLUE,
    HALF_WIDTH_IN,
    INK,
    MUTED,
    ORANGE,
    Drawing,
    Tip,
    legend_above,
    new_axes,
)
from sepnas.spec.evaluation import NUM_BINS, ClassificationScores, ClassScore
from sepnas.units import format_count, format_share

_OTHERS = "others"
_MAX_WRITTEN = 12
"""Maximum number of columns for which the squares have numbers."""
Corners = list[tuple[float, float]]


def class_bars_drawing(classes: Sequence[ClassScore]) -> Drawing:
    """A bar for the accuracy of each class, in the given order."""
    figure, axes = new_axes(HALF_WIDTH_IN, 0.9 + 0.24 * len(classes))
    lowest = classes[0]
    drawing = Drawing(
        "evaluation-classes",
        figure,
        f"Bars of the accuracy of {format_count(len(classes), 'class')}; lowest for {lowest.name} with "
        f"{format_share(lowest.accuracy)}. Each class is listed in the table.",
    )
    bars = [_box(0.0, place - 0.36, each.accuracy, place + 0.36) for place, each in enumerate(classes)]
    marks = axes.add_collection(PolyCollection(bars, facecolors=BLUE))
    tips = [
        Tip(f"{c.name}: {format_share(c.accuracy)} of {format_count(c.images, 'image')} right") for c in classes
    ]  # fmt: skip
    drawing.tag(marks, "bars", tips)
    axes.set_yticks(range(len(classes)), [short_name(each.name) for each in classes])
    axes.set_xlim(0, 1)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("accuracy")
    return drawing


def confusion_drawing(rows: Sequence[ClassScore], confusions: Sequence[tuple[int, int, int]]) -> Drawing:
    """A square for each pair of true class (row) and predicted class (column) that occurs; right ones are blue."""
    counts = confusion_matrix(rows, confusions)
    names = [short_name(each.name) for each in rows] + ([_OTHERS] if counts.shape[1] > len(rows) else [])
    side = min(HALF_WIDTH_IN, 1.6 + 0.36 * len(names))
    figure, axes = new_axes(HALF_WIDTH_IN, side)
    wrong = int(counts.sum() - np.trace(counts))
    drawing = Drawing(
        "evaluation-confusions",
        figure,
        f"Confusion matrix of {format_count(len(rows), 'class')}: {format_count(wrong, 'image')} of "
        f"{int(counts.sum()):,} off the diagonal. The most frequent confusions are listed in a table.",
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = [(int(row), int(column)) for row, column in zip(*np.nonzero(counts), strict=True)]
    colours = [to_rgba(BLUE if a == b else ORANGE, 0.12 + 0.6 * float(shares[a, b])) for a, b in cells]
    if cells:
        squares = [_box(b - 0.5, a - 0.5, b + 0.5, a + 0.5) for a, b in cells]
        marks = axes.add_collection(PolyCollection(squares, facecolors=colours))
        full = [each.name for each in rows] + [_OTHERS]
        drawing.tag(
            marks, "squares", [_tip(full[a], full[b], a == b, int(counts[a, b]), shares[a, b]) for a, b in cells]
        )
        _write_numbers(axes, counts)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(rows)), names[: len(rows)])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class of the image")
    return drawing


def confusion_matrix(rows: Sequence[ClassScore], confusions: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Images by true and predicted class, for the classes of ``rows``; a last column counts all other predictions,
    if there are any."""
    places = {each.index: place for place, each in enumerate(rows)}
    counts = np.zeros((len(rows), len(rows) + 1), np.int64)
    for place, each in enumerate(rows):
        counts[place, place] = each.right
    for true, predicted, images in confusions:
        if true in places:
            counts[places[true], places.get(predicted, len(rows))] += images
    return counts if counts[:, -1].any() else counts[:, :-1]


def _tip(true: str, predicted: str, right: bool, images: int, share: float) -> Tip:
    what = "recognised" if right else f"taken for {predicted}"
    return Tip(f"{true}, {what}: {format_count(images, 'image')}, {format_share(float(share))}")


def _write_numbers(axes: Axes, counts: np.ndarray) -> None:
    if counts.shape[1] > _MAX_WRITTEN:
        return
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=INK)


def reliability_drawing(scores: ClassificationScores) -> Drawing:
    """Accuracy over confidence: a bar for each interval, a dot at its mean confidence, the diagonal for comparison."""
    figure, axes = new_axes(HALF_WIDTH_IN, 3.6)
    drawing = Drawing(
        "evaluation-reliability",
        figure,
        f"Reliability diagram: expected calibration error {format_share(scores.calibration_error)}, mean negative log "
        f"likelihood {scores.negative_log_likelihood:.3f}.",
    )
    found = [(place, each) for place, each in enumerate(scores.reliability) if each.images]
    bars = [_box(place / NUM_BINS, 0.0, (place + 1) / NUM_BINS, each.accuracy) for place, each in found]
    marks = axes.add_collection(PolyCollection(bars, facecolors=to_rgba(BLUE, 0.55), edgecolors=BLUE))
    tips = [
        Tip(
            f"confidence {format_share(each.confidence)} on average, accuracy {format_share(each.accuracy)}: "
            f"{format_count(each.images, 'image')}"
        )
        for _, each in found
    ]
    drawing.tag(marks, "bins", tips)
    dots = axes.scatter(
        [each.confidence for _, each in found], [each.accuracy for _, each in found], s=18, color=ORANGE, zorder=4,
        clip_on=False,
    )  # fmt: skip
    drawing.tag(dots, "means", tips)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="dashed", zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("confidence (probability of the predicted class)")
    axes.set_ylabel("accuracy")
    dot = Line2D([], [], linestyle="none", marker="o", color=ORANGE, label="at the mean confidence")
    legend_above(axes, [Patch(color=BLUE, label="accuracy"), dot])
    return drawing


def _box(left: float, top: float, right: float, bottom: float) -> Corners:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
