"""What a plan costs on a cluster: time, bytes, memory, energy.

A discrete-event simulation. Devices carry out their steps in order; sends never wait; a message occupies
what its link's medium says (ports, a cable, the air) and takes its turn there by tag. Turns do not depend on
times, so every finish time is a (max, +) expression of the durations: more bandwidth, or a faster device,
never makes anything later.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sepnas.cost.routes import routes_of
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
        self.routes = routes_of(cluster)
        self.spans: list[Span] | None = [] if timeline else None
        self.now = [0.0] * plan.num_devices
        self.compute_s = [0.0] * plan.num_devices
        self.position = [0] * plan.num_devices
        self.arrival: dict[int, float] = {}
        self.free_at: dict[Hashable, float] = {}
        self.payload_bytes: dict[tuple[int, int], int] = {}
        self.num_messages: dict[tuple[int, int], int] = {}
        self.latency_s = 0.0

    def result(self) -> Simulation:
        for message in sorted(self._messages()):
            self._deliver(*message)
        for rank in range(self.plan.num_devices):
            self._advance(rank, None)
        links = tuple(
            LinkBytes(*pair, payload, payload + FRAME_HEADER_BYTES * self.num_messages[pair])
            for pair, payload in sorted(self.payload_bytes.items())
        )
        makespan_s = max(self.now)
        return Simulation(
            makespan_s=makespan_s,
            latency_s=self.latency_s,
            payload_bytes=sum(link.payload_bytes for link in links),
            wire_bytes=sum(link.wire_bytes for link in links),
            compute_s=tuple(self.compute_s),
            peak_memory_bytes=tuple(peak_memory_bytes(self.plan, rank, self.batch) for rank in range(len(self.now))),
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
                elif isinstance(step, Recv) and step.source == CLIENT:
                    nbytes = payload_bytes(shapes[step.tensor].num_values, "fp32", self.batch)
                    found.append((step.tag, CLIENT, rank, nbytes, step.tensor))
        return found

    def _deliver(self, tag: int, source: int, destination: int, nbytes: int, tensor: str) -> None:
        """Let the sender reach its send, then carry the message."""
        pair = (source, destination)
        arrival_s = posted_s = 0.0 if source == CLIENT else self._advance(source, tag)
        route = self.routes[pair]
        if route is not None:
            start_s = posted_s
            for resource in route.resources:
                start_s = max(start_s, self.free_at.get(resource, 0.0))
            wire_bytes = nbytes + FRAME_HEADER_BYTES
            end_s = start_s + route.message_overhead_s + wire_bytes / route.bandwidth_bytes_per_s
            for resource in route.resources:
                self.free_at[resource] = end_s
            arrival_s = end_s + route.latency_s
            if self.spans is not None:
                self.spans.append(Span(source, "transfer", tensor, start_s, arrival_s, destination, nbytes))
        self.arrival[tag] = arrival_s
        if destination == CLIENT:
            self.latency_s = arrival_s
        elif source != CLIENT:
            self.payload_bytes[pair] = self.payload_bytes.get(pair, 0) + nbytes
            self.num_messages[pair] = self.num_messages.get(pair, 0) + 1

    def _advance(self, rank: int, until_tag: int | None) -> float:
        """Carry out a device's steps up to the send ``until_tag`` (or all); the time of that."""
        program, segments = self.plan.programs[rank], self.plan.segments[rank]
        device, now, position = self.cluster.devices[rank], self.now[rank], self.position[rank]
        while position < len(program):
            step = program[position]
            position += 1
            if isinstance(step, Compute):
                seconds = compute_seconds(segments[step.segment], device, self.batch)
                self.compute_s[rank] += seconds
                self._span(rank, "compute", step.segment, now, now + seconds)
                now += seconds
            elif isinstance(step, Recv):
                arrival_s = self._arrival(step, rank)
                if arrival_s > now:
                    self._span(rank, "wait", step.tensor, now, arrival_s, step.source)
                    now = arrival_s
            elif isinstance(step, Send) and step.tag == until_tag:
                break
        self.now[rank], self.position[rank] = now, position
        return now

    def _arrival(self, step: Recv, rank: int) -> float:
        if step.tag not in self.arrival:
            raise PlanError(
                f"rank {rank} waits for message {step.tag} from rank {step.source} before anyone can have sent it; "
                "tags must rise along every dependency"
            )
        return self.arrival[step.tag]

    def _span(
        self, rank: int, kind: SpanKind, name: str, start_s: float, end_s: float, peer: int | None = None
    ) -> None:
        if self.spans is not None:
            self.spans.append(Span(rank, kind, name, start_s, end_s, peer))

    def _energy_j(self, links: tuple[LinkBytes, ...], makespan_s: float) -> tuple[float, ...]:
        wire_bytes = [0] * self.plan.num_devices
        for link in links:
            wire_bytes[link.source] += link.wire_bytes
            wire_bytes[link.destination] += link.wire_bytes
        return tuple(
            device.power.idle_w * makespan_s + device.power.compute_w * busy_s + device.power.energy_per_byte_j * nbytes
            for device, busy_s, nbytes in zip(self.cluster.devices, self.compute_s, wire_bytes, strict=False)
        )


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """Weights, the largest activations of a segment, and a buffer for each message that comes in."""
    weights = activations = received = 0
    for segment in plan.segments[rank].values():
        weights += segment.weight_bytes
        activations = max(activations, segment.activation_bytes)
    shapes = plan.shapes[rank]
    for step in plan.programs[rank]:
        if isinstance(step, Recv):
            received += shapes[step.tensor].num_values
    return weights + batch * (activations + 4 * received)
