"""Accuracy against the bytes that cross between the devices, a point for each network, with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

MARKERS = {"fp32": "o", "int8": "s", "int4": "^"}


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """``lines`` have ``network``, ``wire``, ``payload_bytes``, ``top1``, ``low`` and ``high`` (%)."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    names = list(dict.fromkeys(line["network"] for line in lines))
    for line in lines:
        colour = f"C{names.index(line['network'])}"
        spread = [[line["top1"] - line["low"]], [line["high"] - line["top1"]]]
        if not line["payload_bytes"]:
            axes.axhline(line["top1"], color=colour, linestyle=":", linewidth=1)
            where = {"xy": (1.0, line["top1"]), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(line["network"], **where)
            continue
        marker = MARKERS[line["wire"]]
        axes.errorbar(line["payload_bytes"], line["top1"], yerr=spread, color=colour, marker=marker, capsize=3)
    for name in names:
        if any(line["payload_bytes"] for line in lines if line["network"] == name):
            axes.plot([], [], color=f"C{names.index(name)}", marker="o", linestyle="", label=name)
    for wire, marker in MARKERS.items():
        axes.plot([], [], color="black", marker=marker, linestyle="", label=wire)
    axes.set_xscale("log")
    axes.set_xlabel("bytes between the devices for one image")
    axes.set_ylabel("test accuracy, %")
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
