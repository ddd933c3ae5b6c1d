"""Time lines in the Trace Event Format, which Perfetto and ``chrome://tracing`` open.

Complete events (``ph: X``) of one thread must nest, or Perfetto drops them: messages that are on their way at the same
time get threads of their own. Thread ids are unique in the whole file, because Perfetto names threads by them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeAlias

from sepnas.cost.timeline import Activity, Timeline, rank_name

Event: TypeAlias = dict[str, Any]
_Lane: TypeAlias = list[Activity]


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """A whole file as plain data: one process for each time line, all from the same zero.

    Each device has a thread, and one or more for the messages it sends. An arrow (a flow) leads from a message to the
    step that took it in, where the device had waited for it.
    """
    earliest_s = min((a.start_s for timeline in timelines for a in timeline.activities), default=0.0)
    shift_ns = max(0, -_ns(earliest_s))  # clocks are only known so well, and a negative time is none to a viewer
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
    # sorting keeps the order within a moment: an arrow starts before it ends
    in_order = sorted([*under_way, *events], key=lambda event: float(event["ts"]))
    return {"traceEvents": [*heads, *in_order], "displayTimeUnit": "ms"}


def _lanes(activities: Iterable[Activity]) -> Iterator[tuple[str, _Lane]]:
    """What each thread shows, by its name: the devices' first, then the messages'."""
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
    """A number for each message that was waited for and did not arrive before it was sent, by tag."""
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
        # a flow hangs on the slice of its thread that was begun last, hence right after it
        ends: Event = {"ph": "s"} if activity.kind == "transfer" else {"ph": "f", "bp": "e"}
        # ends are paired by category, name and number
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
    """Whole nanoseconds, as viewers count: neighbours that touch still touch after rounding."""
    return round(moment_s * 1e9)


def _us(duration_ns: int) -> float:
    return duration_ns / 1e3
