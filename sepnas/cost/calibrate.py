"""Calibrates the figures of a cluster from measured times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.cost.routes import routes_of
from sepnas.cost.timeline import Activity, Timeline
from sepnas.cost.times import DeviceTimes, times_of
from sepnas.errors import SpecError
from sepnas.plan.plan import Message, Plan, Segment
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.timing import MessageTime, SegmentTime

_MIN_TIMES = 3
"""Minimum number of times for a fit: two determine its two numbers, the third their error."""
_SURE = 3.0
"""Minimum distance from 0 of an accepted coefficient, in standard errors."""
_MIN_WIRE_S = 1e-7
"""Wire time of a message that arrived sooner than the processor times of its two ends allow, in seconds."""
_ROUNDING = 1e-6
"""Relative differences of measured times below this are rounding errors."""

_Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DeviceCorrection:
    """A device before and after; ``ratio`` is the median of its measured over its predicted computing time."""

    before: Device
    after: Device
    how: str
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class LinkCorrection:
    """A link before and after; ``name`` gives its two ends."""

    name: str
    before: Link
    after: Link
    how: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """A corrected cluster, and its corrections."""

    cluster: Cluster
    devices: tuple[DeviceCorrection, ...]
    links: tuple[LinkCorrection, ...]


def calibrate(plan: Plan, cluster: Cluster, timelines: Sequence[Timeline]) -> Calibration:
    """Correct a cluster by the measured requests of ``plan``; figures that no measurement concerns are kept.

    Each segment and each message counts with its median over the requests. A computing time involves one clock. A
    message time involves two: it counts if the receiver was waiting, no other message was in the way, and it exceeds
    the uncertainty of the clocks. The processor times of its two ends, given by their ``exchange``, are subtracted.
    """
    devices = tuple(
        _corrected_device(device, _segment_times(plan, rank, timelines)) for rank, device in enumerate(cluster.devices)
    )
    messages = _message_times(plan, cluster, timelines)
    links = [_corrected_link(f"link {_ends(link)}", link, messages[index]) for index, link in enumerate(cluster.links)]
    corrected = cluster.model_copy(
        update={"devices": tuple(each.after for each in devices), "links": tuple(each.after for each in links)}
    )
    if cluster.client_link is not None:
        links.append(_corrected_link("client_link", cluster.client_link, messages[CLIENT]))
        corrected = corrected.model_copy(update={"client_link": links[-1].after})
    return Calibration(corrected, devices, tuple(links))


def fit_rate(times: Sequence[SegmentTime]) -> tuple[float, float]:
    """``(flops_per_s, layer_overhead_s)`` that fit the times best, by least squares of relative errors.

    Neither is negative: if the best fit would make one negative, the other alone is fitted.
    """
    if len(times) < 2 or any(t.seconds <= 0 for t in times):
        raise SpecError(f"a rate needs at least two measured times above 0 s, got {len(times)}")
    columns = np.array([[t.flops / t.seconds, t.num_kernels / t.seconds] for t in times])
    ones = np.ones(len(times))
    per_flop, per_kernel = np.linalg.lstsq(columns, ones, rcond=None)[0]
    if per_flop <= 0:
        per_flop, per_kernel = 1e-15, _alone(columns[:, 1])
    elif per_kernel <= 0:
        per_flop, per_kernel = _alone(columns[:, 0]), 0.0
    return float(1 / per_flop), float(per_kernel)


def _alone(column: _Array) -> float:
    return float(column.sum() / (column**2).sum())


def _sure_fit(columns: _Array, seconds: _Array) -> tuple[float, float] | None:
    """Two numbers ``(a, b)`` with ``columns @ (a, b) == seconds``, by least squares of relative errors.

    None if the data cannot separate them, or if ``a`` does not differ significantly from 0.
    """
    shares = columns / seconds[:, None]
    if len(seconds) < _MIN_TIMES:
        return None
    size = np.linalg.norm(shares, axis=0)
    if not size.all():
        return None
    (a, b), _, rank, _ = np.linalg.lstsq(shares / size, np.ones(len(seconds)), rcond=1e-6)
    if rank < 2:
        return None
    misses = shares / size @ np.array([a, b]) - 1
    variance = float(misses @ misses) / (len(seconds) - 2)
    error = float(np.sqrt(variance * np.linalg.inv((shares / size).T @ (shares / size))[0, 0]))
    first, second = float(a / size[0]), float(b / size[1])
    if first <= _SURE * error / size[0]:
        return None
    if second * shares[:, 1].max() < -_ROUNDING:
        return None
    return first, max(0.0, second)


@dataclass(frozen=True, slots=True)
class _Computed:
    """The median time of a segment for one batch size."""

    segment: Segment
    batch: int
    seconds: float


def _segment_times(plan: Plan, rank: int, timelines: Iterable[Timeline]) -> list[_Computed]:
    """The median time of each segment of a device, for each batch size."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for timeline in timelines:
        for activity in timeline.activities:
            if activity.rank == rank and activity.kind == "compute":
                found[activity.name, timeline.batch].append(activity.seconds)
    times = (_Computed(plan.segments[rank][name], batch, median(took)) for (name, batch), took in found.items())
    return [time for time in times if time.seconds > 0 and time.segment.flops > 0]


def _corrected_device(device: Device, times: Sequence[_Computed]) -> DeviceCorrection:
    """Fit the rate and the time per kernel, or scale both by one factor if the times cannot separate them.

    A measured profile is scaled as a whole, and so are rates: the proportions of the operators are known.
    """
    if not times:
        return DeviceCorrection(device, device, "computed nothing")
    predicted = DeviceTimes(device)
    ratio = median(t.seconds / predicted.segment_s(t.segment, t.batch) for t in times)
    columns = np.array([[t.batch * t.segment.flops, t.segment.num_kernels] for t in times], dtype=np.float64)
    fitted = None if device.profile or device.rates else _sure_fit(columns, np.array([t.seconds for t in times]))
    how = f"scaled by {ratio:.3g}, {len(times)} segments"
    changes: dict[str, Any]
    if fitted is not None:
        changes, how = {"flops_per_s": 1 / fitted[0], "layer_overhead_s": fitted[1]}, f"fitted to {len(times)} segments"
    else:
        changes = {"flops_per_s": device.flops_per_s / ratio, "layer_overhead_s": device.layer_overhead_s * ratio}
        changes["rates"] = tuple(each.scaled(ratio) for each in device.rates)
        if device.profile:
            changes["profile"] = device.profile.scaled(ratio)
        if device.profile or device.rates:
            how = f"{'profile' if device.profile else 'rates'} {how}"
    return DeviceCorrection(device, device.model_copy(update=changes), how, ratio)


_Message: TypeAlias = tuple[int, int, int, int]
"""Source, destination, tag, and the request's batch size."""


def _message_times(plan: Plan, cluster: Cluster, timelines: Iterable[Timeline]) -> dict[int, list[MessageTime]]:
    """The median times of the usable messages, by the index of their link (``CLIENT``: the client's link)."""
    found: dict[_Message, list[MessageTime]] = defaultdict(list)
    messages = {message.tag: message for message in plan.messages()}
    for timeline in timelines:
        for way, time in _free_messages(cluster, timeline):
            message = messages[way[2]]
            is_image = time.wire_bytes == message.wire_bytes(timeline.batch)
            ends_s = _ends_s(message.sent_as(normalised=not is_image), cluster, timeline.batch)
            wire_s = max(time.seconds - ends_s, _MIN_WIRE_S)
            found[way].append(MessageTime(time.wire_bytes, wire_s, time.uncertainty_s))
    links: dict[int, list[MessageTime]] = defaultdict(list)
    for (source, destination, _, _), times in found.items():
        place = CLIENT
        if CLIENT not in (source, destination):
            carrier = cluster.link(source, destination)
            place = next(index for index, link in enumerate(cluster.links) if link is carrier)
        seconds = median(time.seconds for time in times)
        links[place].append(MessageTime(times[0].wire_bytes, seconds, max(time.uncertainty_s for time in times)))
    return links


def _ends_s(message: Message, cluster: Cluster, batch: int) -> float:
    """Processor seconds of a message at its two ends: converting, handling, writing and reading."""
    wire_bytes, times = message.wire_bytes(batch), times_of(cluster)
    spent_s = routes_of(cluster).threads_s(message.source, message.destination, wire_bytes)
    for rank in (message.source, message.destination):
        if rank != CLIENT:
            spent_s += times[rank].convert_s(message.shape.num_values * batch, message.wire)
            spent_s += times[rank].handle_s(wire_bytes)
    return spent_s


def _free_messages(cluster: Cluster, timeline: Timeline) -> Iterator[tuple[_Message, MessageTime]]:
    """The messages of one request that the receiver waited for and that shared their path with no other."""
    routes, clocks = routes_of(cluster), timeline.uncertainty_s
    posted_s, had_s, waited = _ends_of_messages(timeline)
    ways: list[tuple[Activity, frozenset[int]]] = []
    for message in timeline.activities:
        if message.kind == "transfer" and message.peer is not None:
            route = routes[message.rank, message.peer]
            if route is not None:  # None: in this cluster, client messages cost nothing
                ways.append((message, frozenset(route.resources)))
    for message, way in ways:
        source, destination, tag = message.rank, message.peer, message.tag
        if destination is None or tag is None or (tag not in waited and destination != CLIENT):
            continue
        start_s, end_s = posted_s.get(tag, 0.0), had_s.get(tag, message.end_s)
        # a message that arrived meanwhile over the same wire went first
        free = not any(
            way & other_way and start_s < other.end_s <= message.end_s and other is not message
            for other, other_way in ways
        )
        if free and end_s > start_s:
            time = MessageTime(
                message.payload_bytes + FRAME_HEADER_BYTES,
                end_s - start_s,
                clocks.get(source, 0.0) + clocks.get(destination, 0.0),
            )
            yield (source, destination, tag, timeline.batch), time


def _ends_of_messages(timeline: Timeline) -> tuple[Mapping[int, float], Mapping[int, float], set[int]]:
    """By tag: when each message was posted and when its receiver had it; and the tags that were waited for."""
    steps: dict[str, dict[int, Activity]] = {"send": {}, "recv": {}, "wait": {}}
    begun: set[int] = set()
    waited: set[int] = set()
    for activity in timeline.activities:
        tag = activity.tag
        if activity.kind in steps and tag is not None:
            steps[activity.kind][tag] = activity
            # a device waits for the request before its first step
            if activity.kind == "wait" or (activity.kind == "recv" and activity.rank not in begun):
                waited.add(tag)
        if activity.kind != "transfer":
            begun.add(activity.rank)
    posted_s = {tag: activity.start_s for tag, activity in steps["send"].items()}
    had_s = {tag: activity.end_s for tag, activity in steps["recv"].items()}
    return posted_s, had_s, waited


def _corrected_link(name: str, link: Link, times: Sequence[MessageTime]) -> LinkCorrection:
    """Bandwidth and latency fitted to the times, or the latency alone if the sizes cannot separate the two."""
    used = [t for t in times if t.seconds > t.uncertainty_s]
    if 2 * len(used) <= len(times):
        # the few that exceed the uncertainty would mostly be overestimates
        why = "shorter than the clocks' uncertainty" if times else "no message was waited for"
        return LinkCorrection(name, link, link, f"kept: {why}")
    columns = np.array([[t.wire_bytes, 1] for t in used], dtype=np.float64)
    fitted = _sure_fit(columns, np.array([t.seconds for t in used]))
    if fitted is not None:
        rate, constant_s, how = 1 / fitted[0], fitted[1], "fitted to"
    else:
        rate, how = link.bandwidth_bytes_per_s, "latency of"
        constant_s = median(t.seconds - t.wire_bytes / rate for t in used)
        wire_s = [t.seconds - link.message_overhead_s for t in used]
        if constant_s < link.message_overhead_s and min(wire_s) > 0:  # too slow even with zero latency
            rate, how = median(t.wire_bytes / s for t, s in zip(used, wire_s, strict=True)), "bandwidth of"
    changes = {"bandwidth_bytes_per_s": rate, "latency_s": max(0.0, constant_s - link.message_overhead_s)}
    return LinkCorrection(
        name, link, link.model_copy(update=changes), f"{how} {len(used)} message{'' if len(used) == 1 else 's'}"
    )


def _ends(link: Link) -> str:
    return "all" if link.between == "all" else "-".join(link.between)
