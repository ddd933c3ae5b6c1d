"""Time lines in the Trace Event Format, which Perfetto and ``chrome://tracing`` open.

Complete events (``ph: X``) of one thread must nest, or Perfetto drops them, so overlapping transfers get separate
threads. Thread ids are unique in the whole file, because Perfetto names threads by the thread id alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeAlias

from sepnas.cost.timeline import Activity, Timeline, rank_name

Event: TypeAlias = dict[str, Any]
_Lane: TypeAlias = list[Activity]


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """A whole file as plain data: one process for each time line, all with the same origin of time.

    Each device has one thread for its steps, and one or more for the messages that it sends. An arrow (a flow) leads
    from a message to the step that received it, if the device waited for it.
    """
    earliest_s = min((a.start_s for timeline in timelines for a in timeline.activities), default=0.0)
    shift_ns = max(0, -_ns(earliest_s))  # clock offsets are inexact, and viewers reject negative times
    heads, flows = list[Event](), count(1)
    under_way, events = list[Event](), list[Event]()
    for pid, timeline in enumerate(timelines, start=1):
        first = 1000 * pid
        heads += [_named("process_name", pid, first, timeline.title), _sorted("process_sort_index", pid, first, pid)]
        numbers = _flow_numbers(timeline.activities, flows)
        for tid, (name, lane) in enumerate(_lanes(timeline.activities), start=first):
            heads += [_named("thread_name", pid, tid, name), _sorted("thread_sort_index", pid, tid, tid)]
            for activity in lane:
                found = under_way if activity.kind == "transfer" else events
                found += _events(activity, pid, tid, shift_ns, numbers)
        answered = {"name": "answer", "ph": "i", "s": "p", "ts": _us(_ns(timeline.latency_s) + shift_ns)}
        events.append(answered | {"pid": pid, "tid": first})
    # the sort is stable: at equal times an arrow starts before it ends
    in_order = sorted([*under_way, *events], key=lambda event: float(event["ts"]))
    return {"traceEvents": [*heads, *in_order], "displayTimeUnit": "ms"}


def _lanes(activities: Iterable[Activity]) -> Iterator[tuple[str, _Lane]]:
    """The lane of each thread with the thread's name; for each device its own first, then its messages'."""
    own: dict[int, _Lane] = {}
    under_way: dict[int, list[_Lane]] = {}
    for activity in sorted(activities, key=lambda activity: activity.start_s):
        if activity.kind != "transfer":
            own.setdefault(activity.rank, []).append(activity)
            continue
        lanes = under_way.setdefault(activity.rank, [])
        free = next((lane for lane in lanes if _ns(lane[-1].end_s) <= _ns(activity.start_s)), None)
        if free is None:
            lanes.append([activity])
        else:
            free.append(activity)
    for rank in sorted({*own, *under_way}):
        if rank in own:
            yield rank_name(rank), own[rank]
        for number, lane in enumerate(under_way.get(rank, ()), start=1):
            yield f"{rank_name(rank)} to others" + (f" ({number})" if number > 1 else ""), lane


def _flow_numbers(activities: Iterable[Activity], numbers: Iterator[int]) -> dict[int, int]:
    """A flow number by tag, for each message with a wait whose recorded arrival is not before its sending."""
    seen: dict[str, dict[int, Activity]] = {"transfer": {}, "wait": {}, "recv": {}}
    for activity in activities:
        if activity.kind in seen and activity.tag is not None:
            seen[activity.kind][activity.tag] = activity
    return {
        tag: next(numbers)
        for tag, transfer in seen["transfer"].items()
        if tag in seen["wait"] and tag in seen["recv"] and _ns(transfer.start_s) <= _ns(seen["recv"][tag].start_s)
    }


def _events(activity: Activity, pid: int, tid: int, shift_ns: int, flows: dict[int, int]) -> Iterator[Event]:
    start_ns, end_ns = _ns(activity.start_s) + shift_ns, _ns(activity.end_s) + shift_ns
    place = {"ts": _us(start_ns), "pid": pid, "tid": tid}
    yield {
        "name": f"{activity.kind} {activity.name}", "cat": activity.kind, "ph": "X", **place,
        "dur": _us(max(0, end_ns - start_ns)), "args": _facts(activity),
    }  # fmt: skip
    flow = None if activity.tag is None else flows.get(activity.tag)
    if flow is not None and activity.kind in ("transfer", "recv"):
        # a flow attaches to the last slice begun in its thread, hence directly after it
        ends: Event = {"ph": "s"} if activity.kind == "transfer" else {"ph": "f", "bp": "e"}
        # viewers pair the two ends by category, name and id
        yield {"name": "message", "cat": "message", "id": flow, **ends, **place}


def _facts(activity: Activity) -> dict[str, Any]:
    if activity.peer is None:
        return {}
    facts = {"peer": rank_name(activity.peer), "bytes": activity.payload_bytes, "tag": activity.tag}
    return facts if activity.wire is None else facts | {"wire": activity.wire}


def _named(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _sorted(kind: str, pid: int, tid: int, place: int) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": place}}


def _ns(moment_s: float) -> int:
    """Whole nanoseconds, the viewers' resolution: adjacent activities stay adjacent after rounding."""
    return round(moment_s * 1e9)


def _us(duration_ns: int) -> float:
    return duration_ns / 1e3
