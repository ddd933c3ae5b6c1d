"""Drawing of a transmission policy: a lane for each device, a column for each block, an arrow for each transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from sepnas.plan.liveness import devices_used
from sepnas.plan.wire import WIRE_FORMATS, WireFormat
from sepnas.report.figures.style import (
    BLUE,
    FULL_WIDTH_IN,
    GREEN,
    GRID,
    HALF_WIDTH_IN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    Drawing,
    Tip,
    legend_above,
    new_axes,
)
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import block_channels
from sepnas.separable.policy import ExchangePoint, Transfer
from sepnas.units import format_count

_COLOURS = (BLUE, GREEN, ORANGE, PURPLE, RED)
_WIRE_COLOURS: dict[WireFormat, str] = dict(zip(WIRE_FORMATS, cycle(_COLOURS), strict=False))
_BLOCK_WIDTH = 0.44
_BLOCK_HEIGHT = 0.32
_MIN_COLUMN_IN = 0.62
_ROOMY_COLUMN_IN = 1.1
_MIN_SCALE = 0.5


def policy_drawing(architecture: Architecture) -> Drawing:
    """The transmission policy of an architecture; time goes to the right."""
    width_in = max(FULL_WIDTH_IN, 1.4 + _MIN_COLUMN_IN * architecture.num_blocks)
    drawing, handles = _drawing(architecture, "policy", width_in, 1.1 + 0.62 * architecture.num_devices)
    legend_above(drawing.figure.axes[0], handles, columns=8)
    return drawing


def small_policy_drawing(architecture: Architecture, name: str) -> Drawing:
    """The same at half the width and without a legend, for a gallery."""
    return _drawing(architecture, name, HALF_WIDTH_IN, 0.62 + 0.34 * architecture.num_devices)[0]


def policy_legend_drawing(architectures: Sequence[Architecture]) -> Drawing:
    """The common legend of several small drawings."""
    figure, axes = new_axes(FULL_WIDTH_IN, 0.3)
    figure.set_layout_engine("none")  # the figure is too small for a layout engine
    axes.set_axis_off()
    together = [transfer for architecture in architectures for _, transfer in transfers_of(architecture)]
    legend_above(axes, _handles(together, 1.0), columns=9)
    return Drawing("policy-legend", figure, "The legend of the pictures below: wire formats, lag, fractions.")


def _drawing(
    architecture: Architecture, name: str, width_in: float, height_in: float
) -> tuple[Drawing, list[Patch | Line2D]]:
    num_blocks = architecture.num_blocks
    figure, axes = new_axes(width_in, height_in)
    drawing = Drawing(name, figure, _description(architecture))
    _draw_lanes(drawing, axes, architecture)
    scale = max(_MIN_SCALE, min(1.0, width_in / num_blocks / _ROOMY_COLUMN_IN))
    for number, (point, transfer) in enumerate(transfers_of(architecture)):
        ends = f"after block {point.after}: device {transfer.source} → device {transfer.destination}"
        arrow = _draw_arrow(axes, point, transfer, scale)
        drawing.tag(arrow, f"transfer-{number}", [Tip(f"{ends}, {transfer_text(transfer)}, {point.merge}")])
    _draw_readout(axes, architecture)
    _scale(axes, architecture)
    return drawing, _handles([transfer for _, transfer in transfers_of(architecture)], scale)


def transfers_of(architecture: Architecture) -> Iterator[tuple[ExchangePoint, Transfer]]:
    """Every transfer with its exchange point, in order."""
    for point in architecture.policy.points:
        for transfer in point.transfers:
            yield point, transfer


def _draw_lanes(drawing: Drawing, axes: Axes, architecture: Architecture) -> None:
    end = architecture.num_blocks + 0.1
    used = devices_used(build_plan(architecture))
    axes.hlines(used, -0.35, end, color=MUTED, linewidth=0.8, zorder=1)
    corners, tips, edges = [], [], []
    for rank in range(architecture.num_devices):
        for block in range(architecture.num_blocks):
            corners.append(_box(block, rank))
            channels = block_channels(architecture, rank, block)
            idle = "" if rank in used else "; not needed"
            tips.append(Tip(f"device {rank}, block {block}: {channels} output channels{idle}"))
            edges.append(MUTED if rank in used else GRID)
    boxes = PolyCollection(corners, facecolors=PAPER, edgecolors=edges, linewidths=0.9, zorder=5)
    axes.add_collection(boxes)
    drawing.tag(boxes, "blocks", tips)


def _box(block: int, rank: int) -> list[tuple[float, float]]:
    left, top = block, rank - _BLOCK_HEIGHT / 2
    right, bottom = left + _BLOCK_WIDTH, rank + _BLOCK_HEIGHT / 2
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _draw_arrow(axes: Axes, point: ExchangePoint, transfer: Transfer, scale: float) -> FancyArrowPatch:
    """An arrow for a transfer: with lag 0 it ends before the next block, with lag 1 after it."""
    tail = (point.after + _BLOCK_WIDTH + 0.03, transfer.source)
    head = (point.after + transfer.lag + 0.96, transfer.destination)
    colour = _WIRE_COLOURS[transfer.wire]
    # Arrows of opposite directions bend apart.
    bend = 0.10 if transfer.source < transfer.destination else -0.10
    arrow = FancyArrowPatch(
        tail,
        head,
        arrowstyle=f"-|>,head_length={3.4 * scale},head_width={1.8 * scale}",
        connectionstyle=f"arc3,rad={bend}",
        color=colour,
        linewidth=_width_pt(transfer.fraction, scale),
        linestyle=(0, (4, 2)) if transfer.lag else "solid",
        shrinkA=0,
        shrinkB=0,
        zorder=4,
    )
    axes.add_patch(arrow)
    return arrow


def _width_pt(fraction: float, scale: float) -> float:
    return scale * (0.6 + 1.8 * fraction)


def transfer_text(transfer: Transfer) -> str:
    """A transfer's fraction, wire format and lag."""
    return f"{100 * transfer.fraction:g} % of the channels as {transfer.wire_text()}, lag {transfer.lag}"


def _draw_readout(axes: Axes, architecture: Architecture) -> None:
    readout = architecture.policy.readout
    x = architecture.num_blocks + 0.22
    mean = readout.kind == "mean"
    for rank in range(architecture.num_devices) if mean else (readout.device,):
        gathers = rank == readout.device
        axes.plot([x], [rank], "o", markersize=8, color=RED if gathers else PAPER, markeredgecolor=RED, zorder=6)
    text = "answer: mean of all" if mean else "answer"
    axes.annotate(text, (x, readout.device), (8, 0), textcoords="offset points", va="center", fontsize=8, color=INK)


def _scale(axes: Axes, architecture: Architecture) -> None:
    num_blocks, num_devices = architecture.num_blocks, architecture.num_devices
    axes.set_xlim(-0.4, num_blocks + (1.6 if architecture.policy.readout.kind == "mean" else 1.0))
    axes.set_ylim(num_devices - 0.45, -0.85)
    used = devices_used(build_plan(architecture))
    names = [f"device {rank}" if rank in used else f"device {rank},\nnot needed" for rank in range(num_devices)]
    for label, rank in zip(axes.set_yticks(range(num_devices), names), range(num_devices), strict=False):
        label.label1.set_color(INK if rank in used else MUTED)
    axes.set_xticks([block + _BLOCK_WIDTH / 2 for block in range(num_blocks)], [str(b) for b in range(num_blocks)])
    axes.set_xlabel("block")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    _mark_stages(axes, architecture.blocks_per_stage)


def _mark_stages(axes: Axes, blocks_per_stage: Sequence[int]) -> None:
    first = 0
    for stage, num_blocks in enumerate(blocks_per_stage):
        if not num_blocks:
            continue
        left, right = first - 0.14, first + num_blocks - 1 + _BLOCK_WIDTH + 0.14
        axes.axvspan(left, right, color=MUTED, alpha=0.07, linewidth=0, zorder=0)
        axes.text(left + 0.08, -0.68, f"stage {stage}", fontsize=8, color=MUTED, va="center")
        first += num_blocks


def _handles(transfers: Sequence[Transfer], scale: float) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Line2D([], [], color=_WIRE_COLOURS[wire], linewidth=2, label=wire)
        for wire in WIRE_FORMATS
        if any(transfer.wire == wire for transfer in transfers)
    ]
    if any(transfer.lag for transfer in transfers):
        handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="lag 1 (hides behind a block)"))
    for fraction in sorted({transfer.fraction for transfer in transfers}, reverse=True)[:4]:
        width = _width_pt(fraction, scale)
        handles.append(Line2D([], [], color=MUTED, linewidth=width, label=f"{100 * fraction:g} % of channels"))
    return handles


def _description(architecture: Architecture) -> str:
    policy = architecture.policy
    num_transfers = sum(len(point.transfers) for point in policy.points)
    return (
        f"Transmission policy '{policy.name}': {format_count(num_transfers, 'transfer')} between "
        f"{format_count(architecture.num_devices, 'device')} at {len(policy.points)} of {architecture.num_blocks} "
        "exchange points. Each transfer is listed in the table below."
    )
