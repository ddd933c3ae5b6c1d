"""The time line of one inference: the activities of every device, each prediction above its measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from sepnas.cost.timeline import rank_name
from sepnas.report.content import ShownSpan, ShownTimeline, SpanKind
from sepnas.report.figures.style import (
    BLUE,
    FULL_WIDTH_IN,
    GREEN,
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
from sepnas.units import format_bytes, format_count, format_seconds, time_unit


@dataclass(frozen=True, slots=True)
class _Look:
    """Colour of a kind of span, and its place in a lane of height 1 (downwards)."""

    caption: str
    colour: str
    top: float
    bottom: float
    alpha: float = 1.0


_LOOKS: dict[SpanKind, _Look] = {
    "wait": _Look("waits", MUTED, 0.14, 0.32, 0.28),
    "compute": _Look("computes", BLUE, 0.04, 0.42),
    "merge": _Look("merges", GREEN, 0.04, 0.42),
    "send": _Look("sends", ORANGE, 0.47, 0.67),
    "recv": _Look("receives", PURPLE, 0.71, 0.91),
}
_GAP = 0.45
_MAX_ARROWS = 60
_NARROWEST_SEAM = 0.004
_MARGIN, _CHARACTER = 0.005, 0.0058
"""Widths for peers' names as shares of the time axis: margin and character. Too narrow bars have only a tooltip."""

_ON_COLOUR = "#1b1f25"
"""Colour of text on orange and purple: dark in both themes, hence not one of the page's colours."""


def timeline_drawing(timelines: Sequence[ShownTimeline], name: str = "timeline") -> Drawing:
    """A group of lanes for each device, one lane for each of ``timelines``, on one time axis."""
    ranks = sorted({span.rank for timeline in timelines for span in timeline.spans})
    rows = len(ranks) * (len(timelines) + _GAP)
    figure, axes = new_axes(FULL_WIDTH_IN, 0.9 + 0.54 * rows)
    drawing = Drawing(name, figure, _description(timelines, ranks))
    tops = [
        {rank: place * (len(timelines) + _GAP) + number for place, rank in enumerate(ranks)}
        for number in range(len(timelines))
    ]
    for number, timeline in enumerate(timelines):
        _draw_timeline(drawing, axes, timeline, number, tops[number], _NARROWEST_SEAM * _longest_s(timelines))
    _name_peers(axes, timelines, tops)
    _scale(axes, timelines, ranks, rows)
    arrows = any(_arrows(timeline) for timeline in timelines)
    legend_above(axes, _handles({span.kind for timeline in timelines for span in timeline.spans}, arrows), columns=7)
    return drawing


def span_text(span: ShownSpan) -> str:
    """The description of a span, in one line."""
    verb = {"compute": "computes", "merge": "merges", "wait": "waits for"}.get(span.kind, "")
    what = f"{rank_name(span.rank)} {verb} {span.name}"
    if span.kind in ("send", "recv") and span.peer is not None:
        ends = (span.rank, span.peer) if span.kind == "send" else (span.peer, span.rank)
        way = f"{rank_name(ends[0])} → {rank_name(ends[1])}"
        what = f"{'send' if span.kind == 'send' else 'receive'} {way}: {span.name}, {format_bytes(span.nbytes)}"
    took = format_seconds(span.end_s - span.start_s)
    return f"{what}; {format_seconds(span.start_s)} to {format_seconds(span.end_s)} ({took})"


def _draw_timeline(
    drawing: Drawing, axes: Axes, timeline: ShownTimeline, number: int, tops: dict[int, float], least_s: float
) -> None:
    for kind, look in _LOOKS.items():
        spans = [span for span in timeline.spans if span.kind == kind]
        if spans:
            bars = PolyCollection(
                [_corners(span, tops[span.rank], look) for span in spans],
                facecolors=look.colour,
                edgecolors=[_outline(span, look, least_s) for span in spans],
                linewidths=0.5,
                alpha=look.alpha,
                zorder=3,
            )
            axes.add_collection(bars)
            drawing.tag(bars, f"{kind}-{number}", [Tip(span_text(span)) for span in spans])
    if arrows := _arrows(timeline):
        _draw_arrows(axes, arrows, tops)
    for top in tops.values():
        axes.plot([timeline.latency_s] * 2, [top - 0.02, top + 0.92], color=RED, linewidth=1.4, zorder=5)


def _outline(span: ShownSpan, look: _Look, least_s: float) -> str:
    """The outline's colour: a seam between wide neighbours; its own colour for a short span, to keep it visible."""
    return PAPER if span.end_s - span.start_s >= least_s and span.kind != "wait" else look.colour


def _corners(span: ShownSpan, top: float, look: _Look) -> list[tuple[float, float]]:
    upper, lower = top + look.top, top + look.bottom
    return [(span.start_s, upper), (span.end_s, upper), (span.end_s, lower), (span.start_s, lower)]


def _name_peers(axes: Axes, timelines: Sequence[ShownTimeline], rows: Sequence[dict[int, float]]) -> None:
    """Write the peers of transfers on their bars, if there is room."""
    longest_s = _longest_s(timelines)
    for timeline, tops in zip(timelines, rows, strict=True):
        for group in _overlapping(timeline.spans):
            text, start_s, end_s = _peers_text(group), group[0].start_s, max(span.end_s for span in group)
            if end_s - start_s < (_MARGIN + _CHARACTER * len(text)) * longest_s:
                continue
            look = _LOOKS[group[0].kind]
            at = ((start_s + end_s) / 2, tops[group[0].rank] + (look.top + look.bottom) / 2 + 0.012)
            axes.annotate(text, at, ha="center", va="center", fontsize=6.5, color=_ON_COLOUR, zorder=6)


def _overlapping(spans: Iterable[ShownSpan]) -> list[list[ShownSpan]]:
    """Groups of transfers with overlapping bars, each of one device and direction, ordered by start."""
    ends = [span for span in spans if span.kind in ("send", "recv") and span.peer is not None]
    groups: list[list[ShownSpan]] = []
    for span in sorted(ends, key=lambda span: (span.kind, span.rank, span.start_s, span.end_s)):
        last = groups[-1] if groups else [span]
        covered_s = max(other.end_s for other in last)
        together = (span.kind, span.rank) == (last[0].kind, last[0].rank) and span.start_s < covered_s * (1 - 1e-9)
        if groups and together:
            last.append(span)
        else:
            groups.append([span])
    return groups


def _peers_text(group: Sequence[ShownSpan]) -> str:
    """Each peer of a group once, as ``→ 1, 2``."""
    peers = sorted({span.peer for span in group if span.peer is not None})
    sign = "→" if group[0].kind == "send" else "←"
    return f"{sign} {', '.join('client' if peer < 0 else str(peer) for peer in peers)}"


def _longest_s(timelines: Sequence[ShownTimeline]) -> float:
    return max(max([t.latency_s, *(span.end_s for span in t.spans)]) for t in timelines)


def _arrows(timeline: ShownTimeline) -> list[tuple[ShownSpan, ShownSpan]]:
    """The two ends of each message; empty if there are too many to be legible."""
    received = {(s.peer, s.rank, s.name): s for s in timeline.spans if s.kind == "recv"}
    ends = [(s, received.get((s.rank, s.peer if s.peer is not None else s.rank, s.name))) for s in timeline.spans]
    pairs = [(sent, got) for sent, got in ends if sent.kind == "send" and got is not None]
    return pairs if len(pairs) <= _MAX_ARROWS else []


def _draw_arrows(axes: Axes, arrows: Sequence[tuple[ShownSpan, ShownSpan]], tops: dict[int, float]) -> None:
    """Draw an arrow from the sending of each message to its arrival."""
    tails = [(sent.start_s, tops[sent.rank] + 0.57) for sent, _ in arrows]
    heads = [(got.end_s, tops[got.rank] + 0.81) for _, got in arrows]
    axes.add_collection(
        LineCollection(list(zip(tails, heads, strict=True)), colors=INK, linewidths=0.6, alpha=0.35, zorder=4)
    )
    axes.scatter([x for x, _ in heads], [y for _, y in heads], s=7, color=INK, alpha=0.7, linewidths=0, zorder=5)


def _scale(axes: Axes, timelines: Sequence[ShownTimeline], ranks: Sequence[int], rows: float) -> None:
    longest_s = _longest_s(timelines)
    size, unit = time_unit(longest_s)
    axes.set_xlim(-0.004 * longest_s, 1.012 * (longest_s or 1.0))
    axes.set_ylim(rows - _GAP + 0.1, -0.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
    axes.set_xlabel(f"time since the request ({unit})")
    lanes = len(timelines)
    axes.set_yticks(
        [place * (lanes + _GAP) + number + 0.45 for place in range(len(ranks)) for number in range(lanes)],
        [_lane_name(rank, timeline) for rank in ranks for timeline in timelines],
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for place in range(len(ranks)):
        top = place * (lanes + _GAP)
        axes.axhspan(top - 0.1, top + lanes, color=MUTED, alpha=0.07, linewidth=0, zorder=0)


def _lane_name(rank: int, timeline: ShownTimeline) -> str:
    return f"{rank_name(rank)}  {timeline.title}".strip()


def _handles(kinds: set[SpanKind], arrows: bool) -> list[Patch | Line2D]:
    order: tuple[SpanKind, ...] = ("compute", "merge", "wait", "send", "recv")
    handles: list[Patch | Line2D] = [
        Patch(facecolor=_LOOKS[kind].colour, alpha=_LOOKS[kind].alpha, label=_LOOKS[kind].caption)
        for kind in order
        if kind in kinds
    ]
    if arrows:
        handles.append(Line2D([], [], color=INK, linewidth=0.8, marker=".", markevery=(1, 2), label="message arrives"))
    return [*handles, Line2D([], [], color=RED, linewidth=1.6, label="answer")]


def _description(timelines: Sequence[ShownTimeline], ranks: Sequence[int]) -> str:
    ends = " and ".join(f"{t.title} {format_seconds(t.latency_s)}" for t in timelines)
    return (
        f"Time line of one inference on {format_count(sum(rank >= 0 for rank in ranks), 'device')}: {ends} until the "
        "answer. For each device it shows when it computes, merges, waits, sends and receives; "
        "the sums are listed in the table below."
    )


BUSY_HEADER = ("device", "", "computes", "merges", "waits", "sent", "finished at")
"""The header of :func:`busy_rows`."""


def busy_rows(timelines: Sequence[ShownTimeline]) -> Iterator[tuple[str, ...]]:
    """The rows of the table under the picture: device, time line, sums and end."""
    for rank in sorted({span.rank for timeline in timelines for span in timeline.spans}):
        for timeline in timelines:
            mine = [span for span in timeline.spans if span.rank == rank]
            sums = [sum(s.end_s - s.start_s for s in mine if s.kind == kind) for kind in ("compute", "merge", "wait")]
            sent = sum(span.nbytes for span in mine if span.kind == "send")
            end_s = max((span.end_s for span in mine), default=0.0)
            numbers = (*(format_seconds(total) for total in sums), format_bytes(sent), format_seconds(end_s))
            yield (rank_name(rank), timeline.title, *numbers)
