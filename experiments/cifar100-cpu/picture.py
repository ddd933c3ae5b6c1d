"""Accuracy against the bytes that cross between the devices, a point for each network, with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from sepnas.report.figures.front import scale_bytes
from sepnas.report.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RED, SETTINGS

COLOURS = (MUTED, BLUE, ORANGE, GREEN, PURPLE, RED, INK)
"""Of the policies in the table's order: no exchange first."""
MARKERS = {"fp32": "o", "int8": "s", "int4": "^"}


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """``lines`` have ``policy``, ``wire``, ``payload_bytes``, ``top1``, ``low`` and ``high`` (%)."""
    sending = list(dict.fromkeys(line["policy"] for line in lines if line["payload_bytes"]))
    colours = dict(zip(sending, COLOURS, strict=False))
    with rc_context(dict(SETTINGS)):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained", facecolor="white")
        axes = figure.subplots()
        for line in lines:
            if not line["payload_bytes"]:
                axes.axhline(line["top1"], color=MUTED, linestyle=":", linewidth=1)
                axes.annotate(line["policy"], (0.0, line["top1"]), (4, 2), ("axes fraction", "data"), "offset points")
                continue
            spread = [[line["top1"] - line["low"]], [line["high"] - line["top1"]]]
            look = {"color": colours[line["policy"]], "marker": MARKERS[line["wire"]], "markersize": 5, "capsize": 3}
            axes.errorbar(line["payload_bytes"], line["top1"], yerr=spread, **look)
        for name, colour in colours.items():
            formats = [(line["payload_bytes"], line["top1"]) for line in lines if line["policy"] == name]
            axes.plot(*zip(*formats, strict=True), color=colour, linewidth=1, alpha=0.4)
            axes.plot([], [], "o", color=colour, label=name)
        for wire, marker in MARKERS.items():
            axes.plot([], [], marker, color=MUTED, label=wire)
        scale_bytes(axes, [line["payload_bytes"] for line in lines if line["payload_bytes"]])
        axes.set(xlabel="payload between the devices for one image", ylabel="test accuracy, %")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, facecolor="white", metadata={"Date": None})
