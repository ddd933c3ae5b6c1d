"""Latency and bandwidth between each two devices, alone and under load, from traces of real requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from sepnas.errors import SpecError
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.client.trace import RequestRecord, Trace
from sepnas.spec.cluster import Cluster, Link

MIN_SIZES = 3
_MIN_WIRE_SHARE = 0.01
"""Minimum wire time of a byte as a share of its measured time, if the processors at both ends would explain more."""
_Pair = tuple[int, int]
_Times = dict[_Pair, dict[int, list[float]]]
"""Seconds by pair (source, destination) and wire bytes."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """The link between two ranks: one direction, or both (their mean, in which clock errors cancel).

    ``bandwidth_known`` is False if larger messages took no longer: the bandwidth is then that of the largest one,
    a lower bound. ``sizes`` counts the different message sizes. ``load_ratio`` is the time of a message while all
    devices send to all, relative to its time alone. ``uncertainty_s`` is that of both clocks together.
    """

    source: int
    destination: int
    latency_s: float
    bandwidth_bytes_per_s: float
    bandwidth_known: bool
    sizes: int
    load_ratio: float | None = None
    uncertainty_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MeasuredLinks:
    """``directions`` depend on the clocks of their ends; ``pairs``, for the cluster, do not. Nor does ``client``, the
    path to the answering device and back, known if requests have several sizes."""

    directions: tuple[MeasuredLink, ...]
    pairs: tuple[MeasuredLink, ...]
    client: MeasuredLink | None = None

    def to_data(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: [asdict(each) for each in getattr(self, name)] for name in ("directions", "pairs")
        }
        return found | {"client": None if self.client is None else asdict(self.client)}


def measure_links(trace: Trace, num_devices: int) -> MeasuredLinks:
    """Fit the messages of a trace; raises :class:`SpecError` that names the pairs without usable messages.

    Requests of the smallest batch measure the devices' links; all requests measure the client's.
    """
    batch = min((request.batch for request in trace.requests), default=1)
    alone, loaded = _message_times([each for each in trace.requests if each.batch == batch], num_devices)
    pairs = [(a, b) for a in range(num_devices) for b in range(num_devices) if a != b]
    unknown = [f"{a} to {b}" for a, b in pairs if len(set(alone[a, b]) & set(alone[b, a])) < MIN_SIZES]
    if unknown:
        raise SpecError(
            f"the trace has no messages of {MIN_SIZES} sizes that travelled alone from device "
            f"{', '.join(unknown[:6])}{' and others' if len(unknown) > 6 else ''}; run a deployment that "
            "`sepnas profile links --write-probe` wrote, and more requests"
        )
    clocks = {d.rank: d.uncertainty_s for request in trace.requests for d in request.devices}
    both: list[MeasuredLink] = []
    directions: list[MeasuredLink] = []
    for a, b in combinations(range(num_devices), 2):
        there, back = (_Way(_medians(alone[pair]), _medians(loaded[pair])) for pair in ((a, b), (b, a)))
        mean = there.mean_with(back)
        # one set of weights for all three, so that a pair's figures are the mean of its directions' figures
        both.append(mean.fitted((a, b), mean.alone))
        clocks_s = clocks[a] + clocks[b]
        directions += [there.fitted((a, b), mean.alone, clocks_s), back.fitted((b, a), mean.alone, clocks_s)]
    directions.sort(key=lambda each: (each.source, each.destination))
    return MeasuredLinks(tuple(directions), tuple(both), _client_way(trace.requests))


def with_links(cluster: Cluster, found: MeasuredLinks) -> Cluster:
    """The cluster with a link for each measured pair, in the order of ranks, and the client's link; medium, duplex and
    the like are kept.

    Raises :class:`SpecError` if the cluster has fewer devices than were measured.
    """
    num_devices = 1 + max(each.destination for each in found.pairs)
    if cluster.num_devices < num_devices:
        raise SpecError(
            f"cluster '{cluster.name}': field `devices`: has {cluster.num_devices}, but links between {num_devices} "
            "devices were measured"
        )
    names = [device.name for device in cluster.devices]
    measured = {frozenset((names[each.source], names[each.destination])): each for each in found.pairs}
    kept = [link for link in cluster.links if link.between == "all" or frozenset(link.between) not in measured]
    links = (*(_link(cluster, each) for each in found.pairs), *kept)
    client_link = cluster.client_link
    if found.client is not None:
        before = client_link or Link(bandwidth_bytes_per_s=1.0)
        client_link = _without_ends(cluster, before, found.client)
    return cluster.model_copy(update={"links": links, "client_link": client_link})


def _link(cluster: Cluster, found: MeasuredLink) -> Link:
    a, b = (cluster.devices[rank].name for rank in (found.source, found.destination))
    known = (a, b) not in cluster.missing_links()
    before = cluster.link(found.source, found.destination) if known else Link(bandwidth_bytes_per_s=1.0)
    return _without_ends(cluster, before.model_copy(update={"between": (a, b)}), found)


def _without_ends(cluster: Cluster, before: Link, found: MeasuredLink) -> Link:
    """The measured link minus the processor time of a message at its devices, as given by their ``exchange``.

    The client's processor time stays in its link, because the simulator counts none for the client.
    """
    ranks = [rank for rank in (found.source, found.destination) if rank != CLIENT]
    ends = [exchange for rank in ranks if (exchange := cluster.devices[rank].exchange)]
    constant_s = before.message_overhead_s + sum(end.message_s for end in ends)
    measured_byte_s = 1 / found.bandwidth_bytes_per_s
    byte_s = max(measured_byte_s - sum(end.byte_s for end in ends), _MIN_WIRE_SHARE * measured_byte_s)
    return before.model_copy(
        update={
            "bandwidth_bytes_per_s": 1 / byte_s,
            "latency_s": max(0.0, found.latency_s - constant_s),
        }
    )


def _client_way(requests: Sequence[RequestRecord]) -> MeasuredLink | None:
    """The path between the client and the answering device: half of a round trip, so no clock error remains.

    The images go to all devices at once, so the answering device has its own when nearly all have arrived: the bytes
    of all of them count.
    """
    times: dict[int, list[float]] = defaultdict(list)
    reader = None
    for request in requests:
        steps = [(device.rank, step) for device in request.devices for step in device.steps if step.peer == CLIENT]
        nbytes = sum(step.payload_bytes + FRAME_HEADER_BYTES for _, step in steps)
        for reader, answer in ((rank, step) for rank, step in steps if step.step == "send"):
            had_s = request.answered_s if answer.tag is None else request.arrived_s.get(answer.tag, request.answered_s)
            for image in (step for rank, step in steps if step.step == "recv" and rank == reader):
                times[nbytes].append(image.end_s - request.sent_s + had_s - answer.start_s)
    if reader is None or len(times) < 2:
        return None
    medians_s = _medians(times)
    both = _Way(medians_s, {}).fitted((CLIENT, reader), medians_s)
    return replace(both, latency_s=both.latency_s / 2)


@dataclass(frozen=True, slots=True)
class _Way:
    """Median seconds by wire bytes, alone and under load."""

    alone: Mapping[int, float]
    loaded: Mapping[int, float]

    def mean_with(self, back: _Way) -> _Way:
        """The mean of both directions: a clock error lengthens one as much as it shortens the other."""
        return _Way(_mean(self.alone, back.alone), _mean(self.loaded, back.loaded))

    def fitted(self, pair: _Pair, scale: Mapping[int, float], uncertainty_s: float = 0.0) -> MeasuredLink:
        """A linear fit of the times of the sizes in ``scale``, with errors relative to the time given there."""
        sizes = sorted(size for size in scale if size in self.alone)
        times, weights = [self.alone[size] for size in sizes], [1 / max(scale[size], 1e-7) for size in sizes]
        byte_s, latency_s = (float(each) for each in np.polyfit(sizes, times, 1, w=weights))
        known = byte_s > 0
        if not known:
            latency_s, byte_s = median(times), max(times[-1], 1e-7) / sizes[-1]
        latency_s = max(0.0, latency_s)
        ratios = [self.loaded[size] / (latency_s + size * byte_s) for size in self.loaded]
        load_ratio = median(ratios) if ratios else None
        return MeasuredLink(*pair, latency_s, 1 / byte_s, known, len(sizes), load_ratio, uncertainty_s)


def _mean(there: Mapping[int, float], back: Mapping[int, float]) -> dict[int, float]:
    return {size: (there[size] + back[size]) / 2 for size in there if size in back}


def _medians(times: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {size: median(some) for size, some in times.items()}


@dataclass(frozen=True, slots=True)
class _Flight:
    """A message in flight, in seconds of the client's clock; ``had_s`` is when its receiver went on with it."""

    pair: _Pair
    wire_bytes: int
    start_s: float
    arrived_s: float
    had_s: float
    waited: bool


def _message_times(requests: Sequence[RequestRecord], num_devices: int) -> tuple[_Times, _Times]:
    """The times of messages that were waited for and alone, and of messages with half of all pairs beside them."""
    alone: _Times = defaultdict(lambda: defaultdict(list))
    loaded: _Times = defaultdict(lambda: defaultdict(list))
    crowd = num_devices * (num_devices - 1) // 2
    for request in requests:
        flights = list(_flights(request))
        for each in flights:
            beside = sum(o.start_s < each.arrived_s and o.arrived_s > each.start_s for o in flights) - 1
            if beside <= 0 and each.waited:
                alone[each.pair][each.wire_bytes].append(each.had_s - each.start_s)
            elif beside >= crowd:
                loaded[each.pair][each.wire_bytes].append(each.arrived_s - each.start_s)
    return alone, loaded


def _flights(request: RequestRecord) -> Iterator[_Flight]:
    sends = {s.tag: (d.rank, s) for d in request.devices for s in d.steps if s.step == "send"}
    for device in request.devices:
        for step in device.steps:
            if step.step != "recv" or step.peer == CLIENT or step.arrived_s is None or step.tag not in sends:
                continue
            source, sent = sends[step.tag]
            yield _Flight(
                (source, device.rank), step.payload_bytes + FRAME_HEADER_BYTES, sent.start_s, step.arrived_s,
                step.end_s, step.arrived_s > step.start_s,
            )  # fmt: skip
