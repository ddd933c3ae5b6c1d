"""What a plan costs on a cluster: time, bytes, memory, energy.

A discrete-event simulation. Devices carry out their steps in order; sends never wait; a message occupies
what its link's medium says (ports, a cable, the air) and takes its turn there by tag. Turns do not depend on
times, so every finish time is a (max, +) expression of the durations: more bandwidth, or a faster device,
never makes anything later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sepnas.cost.routes import Route, routes_of
from sepnas.errors import PlanError
from sepnas.plan.steps import CLIENT, Compute, Plan, Recv, Segment, Send
from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.wire import FRAME_HEADER_BYTES, payload_bytes

_Posted: TypeAlias = tuple[int, int, int, int, str]
"""A message: tag, source, destination, payload bytes, the sender's tensor."""
SpanKind = Literal["compute", "transfer", "wait"]


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time, for the time line. A transfer's ``rank`` is the sender's."""

    rank: int
    kind: SpanKind
    name: str
    start_s: float
    end_s: float
    peer: int | None = None
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """What one device sends another for one request."""

    source: int
    destination: int
    payload_bytes: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """The cost of one request.

    ``makespan_s`` is when the last device has finished, ``latency_s`` when the client has the answer. Byte counts
    are between devices; memory and energy are per device, and 0 J where the cluster gives no power.
    """

    makespan_s: float
    latency_s: float
    payload_bytes: int
    wire_bytes: int
    compute_s: tuple[float, ...]
    peak_memory_bytes: tuple[int, ...]
    energy_j: tuple[float, ...]
    links: tuple[LinkBytes, ...]
    timeline: tuple[Span, ...] = field(default=(), repr=False)


def compute_seconds(segment: Segment, device: Device, batch: int = 1) -> float:
    """A rate for the arithmetic and a constant for each kernel."""
    return batch * segment.flops / device.flops_per_s + segment.num_kernels * device.layer_overhead_s


def simulate(plan: Plan, cluster: Cluster, batch: int = 1, timeline: bool = False) -> Simulation:
    """Simulate one request of ``batch`` samples; ``timeline`` also records every span.

    Raises :class:`PlanError` when the cluster has fewer devices than the plan, or no link for a message.
    """
    if cluster.num_devices < plan.num_devices:
        raise PlanError(
            f"the plan needs {plan.num_devices} devices, but cluster '{cluster.name}' has {cluster.num_devices}"
        )
    return _Run(plan, cluster, batch, timeline).result()


class _Run:
    """One simulated request."""

    def __init__(self, plan: Plan, cluster: Cluster, batch: int, timeline: bool) -> None:
        self.plan, self.cluster, self.batch = plan, cluster, batch
        self.spans: list[Span] | None = [] if timeline else None
        self.now = [0.0] * plan.num_devices
        self.compute_s = [0.0] * plan.num_devices
        self.received_values = [0] * plan.num_devices
        self.arrival: dict[int, float] = {}
        self.carried: dict[tuple[int, int], list[int]] = {}  # payload bytes and messages of each pair
        self.latency_s = 0.0

    def result(self) -> Simulation:
        devices = [self._carry_out(rank) for rank in range(self.plan.num_devices)]
        self._deliver(sorted(self._messages()), devices)
        for device in devices:
            for _ in device:
                pass
        links = tuple(
            LinkBytes(*pair, payload, payload + FRAME_HEADER_BYTES * num_messages)
            for pair, (payload, num_messages) in sorted(self.carried.items())
        )
        makespan_s = max(self.now)
        return Simulation(
            makespan_s=makespan_s,
            latency_s=self.latency_s,
            payload_bytes=sum(link.payload_bytes for link in links),
            wire_bytes=sum(link.wire_bytes for link in links),
            compute_s=tuple(self.compute_s),
            peak_memory_bytes=self._memory_bytes(),
            energy_j=self._energy_j(links, makespan_s),
            links=links,
            timeline=tuple(self.spans or ()),
        )

    def _messages(self) -> list[_Posted]:
        """As :meth:`Plan.messages`, in bare numbers: this is what a search does most."""
        found: list[_Posted] = []
        for rank, program in enumerate(self.plan.programs):
            shapes = self.plan.shapes[rank]
            for step in program:
                if isinstance(step, Send):
                    (first, last), (top, bottom) = step.region.channels, step.region.rows
                    num_values = (last - first) * (bottom - top) * shapes[step.tensor].width
                    nbytes = payload_bytes(num_values, step.wire, self.batch)
                    found.append((step.tag, rank, step.to, nbytes, step.tensor))
                elif isinstance(step, Recv):
                    num_values = shapes[step.tensor].num_values
                    self.received_values[rank] += num_values
                    if step.source == CLIENT:
                        nbytes = payload_bytes(num_values, "fp32", self.batch)
                        found.append((step.tag, CLIENT, rank, nbytes, step.tensor))
        return found

    def _deliver(self, messages: list[_Posted], devices: list[Iterator[int]]) -> None:
        """Carry the messages in turn, each after its sender has reached its send."""
        routes, free_at = routes_of(self.cluster), dict[int, float]()
        for tag, source, destination, nbytes, tensor in messages:
            pair, arrival_s = (source, destination), 0.0
            if source != CLIENT:
                for sent in devices[source]:
                    if sent == tag:
                        break
                arrival_s = self.now[source]
            route = routes[pair]
            if route is not None:
                start_s, end_s = _occupy(route, arrival_s, nbytes + FRAME_HEADER_BYTES, free_at)
                arrival_s = end_s + route.latency_s
                if self.spans is not None:
                    self.spans.append(Span(source, "transfer", tensor, start_s, arrival_s, destination, nbytes))
            self.arrival[tag] = arrival_s
            if destination == CLIENT:
                self.latency_s = arrival_s
            elif source != CLIENT:
                carried = self.carried.setdefault(pair, [0, 0])
                carried[0] += nbytes
                carried[1] += 1

    def _carry_out(self, rank: int) -> Iterator[int]:
        """A device at its steps: stops at each send, with the tag, while ``now`` says when that was."""
        device, segments, spans = self.cluster.devices[rank], self.plan.segments[rank], self.spans
        arrival, now, busy_s = self.arrival, 0.0, 0.0
        for step in self.plan.programs[rank]:
            if isinstance(step, Send):
                self.now[rank] = now
                yield step.tag
            elif isinstance(step, Recv):
                if step.tag not in arrival:
                    raise PlanError(
                        f"rank {rank} waits for message {step.tag} from rank {step.source} before anyone can have "
                        "sent it; tags must rise along every dependency"
                    )
                arrival_s = arrival[step.tag]
                if arrival_s > now:
                    if spans is not None:
                        spans.append(Span(rank, "wait", step.tensor, now, arrival_s, step.source))
                    now = arrival_s
            elif isinstance(step, Compute):
                seconds = compute_seconds(segments[step.segment], device, self.batch)
                if spans is not None:
                    spans.append(Span(rank, "compute", step.segment, now, now + seconds))
                busy_s += seconds
                now += seconds
        self.now[rank], self.compute_s[rank] = now, busy_s

    def _memory_bytes(self) -> tuple[int, ...]:
        devices = zip(self.plan.segments, self.received_values, strict=True)
        return tuple(_memory_bytes(segments, received, self.batch) for segments, received in devices)

    def _energy_j(self, links: tuple[LinkBytes, ...], makespan_s: float) -> tuple[float, ...]:
        wire_bytes = [0] * self.plan.num_devices
        for link in links:
            wire_bytes[link.source] += link.wire_bytes
            wire_bytes[link.destination] += link.wire_bytes
        return tuple(
            device.power.idle_w * makespan_s + device.power.compute_w * busy_s + device.power.energy_per_byte_j * nbytes
            for device, busy_s, nbytes in zip(self.cluster.devices, self.compute_s, wire_bytes, strict=False)
        )


def _occupy(route: Route, posted_s: float, wire_bytes: int, free_at: dict[int, float]) -> tuple[float, float]:
    """From when to when a message is on its way's resources, which are then busy for so long."""
    start_s = posted_s
    for resource in route.resources:
        free_s = free_at.get(resource, 0.0)
        if free_s > start_s:
            start_s = free_s
    end_s = start_s + route.message_overhead_s + wire_bytes / route.bandwidth_bytes_per_s
    for resource in route.resources:
        free_at[resource] = end_s
    return start_s, end_s


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """Weights, the largest activations of a segment, and a buffer for each message that comes in."""
    shapes = plan.shapes[rank]
    received_values = sum(shapes[step.tensor].num_values for step in plan.programs[rank] if isinstance(step, Recv))
    return _memory_bytes(plan.segments[rank], received_values, batch)


def _memory_bytes(segments: Mapping[str, Segment], received_values: int, batch: int) -> int:
    weights = activations = 0
    for segment in segments.values():
        weights += segment.weight_bytes
        if segment.activation_bytes > activations:
            activations = segment.activation_bytes
    return weights + batch * (activations + 4 * received_values)
