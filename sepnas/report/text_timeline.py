"""Time lines for a terminal: a bar of characters for each device, and the longest steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from sepnas.cost.timeline import Activity, ActivityKind, Timeline, describe_activity, rank_name
from sepnas.units import format_seconds, time_unit

MARKS: dict[ActivityKind, str] = {
    "compute": "#",
    "merge": "+",
    "send": ">",
    "recv": "<",
    "wait": ".",
    "transfer": "-",
}
LEGEND = "# computes  + merges  > sends  < takes in  . waits  - its messages on their way"
MARGIN = 13
"""Width of the names left of the bars, in characters."""
MIN_WIDTH = 20
_FEWEST_COLUMNS_A_TICK = 12


def text_timelines(timelines: Sequence[Timeline], width: int) -> str:
    """All time lines above each other on one scale, ``width`` characters wide.

    A device has one line, and a second one for the messages that it sends. Each character shows the activity that took
    most of its interval, so a short activity is visible unless a longer one shares the interval.
    """
    num_cells = max(MIN_WIDTH, width - MARGIN - 1)
    longest_s = max((_end_s(timeline) for timeline in timelines), default=0.0) or 1.0
    lines = []
    for timeline in timelines:
        lines.append(f"{timeline.title}: the answer after {format_seconds(timeline.latency_s)}")
        for rank in sorted({activity.rank for activity in timeline.activities}):
            mine = [activity for activity in timeline.activities if activity.rank == rank]
            own = [activity for activity in mine if activity.kind != "transfer"]
            sent = [activity for activity in mine if activity.kind == "transfer"]
            bars = ((rank_name(rank), own), ("  messages" if own else rank_name(rank), sent))
            lines += [f"{name:<{MARGIN}}{_bar(some, longest_s, num_cells)}".rstrip() for name, some in bars if some]
        lines.append("")
    return "\n".join([*lines, *_scale(longest_s, num_cells), "", LEGEND]) + "\n"


_Key: TypeAlias = tuple[int, str, str, int | None, int | None]


def longest_steps(timelines: Sequence[Timeline], most: int = 10) -> Iterator[tuple[str, ...]]:
    """The longest steps and messages of all time lines: a description, and the time in each time line."""
    found: dict[_Key, list[Activity | None]] = {}
    for place, timeline in enumerate(timelines):
        for activity in timeline.activities:
            key = (activity.rank, activity.kind, activity.name, activity.peer, activity.tag)
            found.setdefault(key, [None] * len(timelines))[place] = activity
    rows = sorted(found.values(), key=lambda row: -max(activity.seconds for activity in row if activity))
    for row in rows[:most]:
        what = next(describe_activity(activity) for activity in row if activity)
        yield (what, *("" if activity is None else format_seconds(activity.seconds) for activity in row))


def _end_s(timeline: Timeline) -> float:
    return max([timeline.latency_s, *(activity.end_s for activity in timeline.activities)])


def _bar(activities: Iterable[Activity], longest_s: float, num_cells: int) -> str:
    """One character for each cell: the kind of activity that takes most of it."""
    shares: list[dict[str, float]] = [{} for _ in range(num_cells)]
    for activity in activities:
        start, end = (num_cells * moment_s / longest_s for moment_s in (activity.start_s, activity.end_s))
        mark = MARKS[activity.kind]
        for cell in range(max(0, math.floor(start)), min(num_cells, math.ceil(end))):
            share = min(end, cell + 1) - max(start, cell)
            if share > 0:
                shares[cell][mark] = shares[cell].get(mark, 0.0) + share
    return "".join(max(cell, key=lambda mark: cell[mark]) if cell else " " for cell in shares)


def _scale(longest_s: float, num_cells: int) -> tuple[str, str]:
    """A ruler under the bars, and the numbers under it."""
    size, unit = time_unit(longest_s)
    step = _round_step(longest_s / size / max(1, num_cells // _FEWEST_COLUMNS_A_TICK))
    ruler, numbers = ["-"] * num_cells, [" "] * (num_cells + _FEWEST_COLUMNS_A_TICK)
    for place in range(int(longest_s / size / step) + 1):
        column = min(num_cells - 1, round(place * step * size / longest_s * num_cells))
        ruler[column] = "|"
        text = f"{place * step:g}" if place else f"0 {unit}"
        start = min(column, num_cells - len(text))  # the last number may end at the edge
        numbers[start : start + len(text)] = text
    return " " * MARGIN + "".join(ruler), (" " * MARGIN + "".join(numbers[:num_cells])).rstrip()


def _round_step(least: float) -> float:
    """The next larger of 1, 2, 5, 10, ..."""
    size: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * size for factor in (1, 2, 5, 10) if factor * size >= least * (1 - 1e-9))
