"""What a plan costs on a cluster: time, bytes, memory, energy.

A discrete-event simulation. Devices carry out their steps in order; sends never wait; a message occupies
what its link's medium says (ports, a cable, the air) and takes its turn there by tag. Turns do not depend on
times, so every finish time is a (max, +) expression of the durations: more bandwidth, or a faster device,
never makes anything later.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from sepnas.errors import PlanError
from sepnas.plan.steps import CLIENT, Compute, Message, Plan, Recv, Segment, Send
from sepnas.spec.cluster import Cluster, Device, Link

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
        self.position = [0] * plan.num_devices
        self.arrival: dict[int, float] = {}
        self.free_at: dict[Hashable, float] = {}
        self.bytes: dict[tuple[int, int], tuple[int, int]] = {}
        self.latency_s = 0.0

    def result(self) -> Simulation:
        for message in sorted(self.plan.messages(), key=lambda m: m.tag):
            self._deliver(message)
        for rank in range(self.plan.num_devices):
            self._advance(rank, None)
        links = tuple(LinkBytes(s, d, payload, wire) for (s, d), (payload, wire) in sorted(self.bytes.items()))
        makespan_s = max(self.now)
        return Simulation(
            makespan_s=makespan_s,
            latency_s=self.latency_s,
            payload_bytes=sum(link.payload_bytes for link in links),
            wire_bytes=sum(link.wire_bytes for link in links),
            compute_s=tuple(self.compute_s),
            peak_memory_bytes=tuple(peak_memory_bytes(self.plan, rank, self.batch) for rank in range(len(self.now))),
            energy_j=tuple(self._energy_j(rank, makespan_s) for rank in range(len(self.now))),
            links=links,
            timeline=tuple(self.spans or ()),
        )

    def _deliver(self, message: Message) -> None:
        """Let the sender reach its send, then carry the message."""
        source, destination = message.source, message.destination
        posted_s = 0.0 if source == CLIENT else self._advance(source, message.tag)
        payload, wire = message.payload_bytes(self.batch), message.wire_bytes(self.batch)
        between_devices = CLIENT not in (source, destination)
        link = self.cluster.link(source, destination) if between_devices else self.cluster.client_link
        start_s = end_s = arrival_s = posted_s
        if link is not None:
            resources = _resources(link, source, destination)
            start_s = max(posted_s, *(self.free_at.get(resource, 0.0) for resource in resources))
            end_s = start_s + link.message_overhead_s + wire / link.bandwidth_bytes_per_s
            for resource in resources:
                self.free_at[resource] = end_s
            arrival_s = end_s + link.latency_s
        self.arrival[message.tag] = arrival_s
        if destination == CLIENT:
            self.latency_s = arrival_s
        if between_devices:
            before = self.bytes.get((source, destination), (0, 0))
            self.bytes[source, destination] = (before[0] + payload, before[1] + wire)
        if self.spans is not None and link is not None:
            self.spans.append(Span(source, "transfer", message.tensor, start_s, arrival_s, destination, payload))

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

    def _energy_j(self, rank: int, makespan_s: float) -> float:
        power = self.cluster.devices[rank].power
        wire_bytes = sum(wire for pair, (_, wire) in self.bytes.items() if rank in pair)
        return power.idle_w * makespan_s + power.compute_w * self.compute_s[rank] + power.energy_per_byte_j * wire_bytes


def _resources(link: Link, source: int, destination: int) -> tuple[Hashable, ...]:
    """What a message occupies while it is on the wire (see :class:`Link`)."""
    if link.medium == "shared":
        return ("air",)
    if link.medium == "switch":
        if link.duplex == "half":
            return (("port", source), ("port", destination))
        return (("out", source), ("in", destination))
    return (("cable", source, destination) if link.duplex == "full" else ("cable", frozenset((source, destination))),)


def peak_memory_bytes(plan: Plan, rank: int, batch: int = 1) -> int:
    """Weights, the largest activations of a segment, and a buffer for each message that comes in."""
    segments = plan.segments[rank].values()
    weights = sum(segment.weight_bytes for segment in segments)
    activations = max((segment.activation_bytes for segment in segments), default=0)
    received = [plan.shapes[rank][s.tensor].num_values for s in plan.programs[rank] if isinstance(s, Recv)]
    return weights + batch * (activations + 4 * sum(received))
