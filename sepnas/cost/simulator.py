"""Simulates the cost of a plan on a cluster: time, bytes, memory, energy.

A discrete-event simulation of the runtime's work for one request. On each device one thread computes and carries
out the steps in order; each peer has one writer thread and one reader thread.

- ``Compute``: the measured times of the device's profile, or a rate and a constant (``cost/times.py``).
- ``Send``: the computing thread converts the values to their wire format, posts the message and goes on. A writer
  handles the device's messages in order of posting, with a cost per message and per byte (copies, TLS). It puts a
  message on the wire piece by piece, while it writes the rest.
- A wire carries one message at a time. By the link's medium it is the sender's port and the receiver's, a cable (one
  direction of it, unless half duplex), or the air. A message holds it for its overhead and its bytes.
- A reader also works piece by piece: it reads all but the last piece while the wire is still busy.
- ``Recv``: the computing thread waits until the message is read, then converts its values back. Computing after one
  or several receives takes slightly longer, because caches are cold (``resume_s``).
- ``Merge``: the computing thread.

Writers and readers run beside the computing thread if the device has a core for them; otherwise
(``own_core: false``) they hold up the computing thread for as long, at the send and at the receive. The writers of one
device take turns, and so do its readers; writers and readers do not slow each other down. The client's processor costs
nothing. Without ``exchange`` costs, converting, handling and merging cost nothing.

The order of messages on a wire does not depend on the links' speeds (``cost/arbitration.py``), so more bandwidth or
less latency never makes a request longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from sepnas.cost.arbitration import take_turns
from sepnas.cost.memory import peak_memory_bytes
from sepnas.cost.playback import Passage
from sepnas.cost.routes import routes_of
from sepnas.cost.work import Work
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Recv
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.spec.cluster import Cluster

SpanKind = Literal["compute", "convert", "merge", "transfer", "wait"]


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of the time line. The ``rank`` of a transfer is its sender's.

    ``convert`` is converting the values of a message, plus its handling by the computing thread.
    """

    rank: int
    kind: SpanKind
    name: str
    start_s: float
    end_s: float
    peer: int | None = None
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes that one device sends another for one request."""

    source: int
    destination: int
    payload_bytes: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """The cost of one request.

    ``makespan_s`` is when the last device has finished, ``latency_s`` when the client has all outputs.
    ``payload_bytes``, ``wire_bytes`` (with headers) and ``links`` are between devices, ``client_links`` those of the
    client. The others are per device: ``compute_s`` is time in segments and in the convolutions of merges, ``busy_s``
    adds conversions and merges; memory is an upper bound; energy is 0 J if the cluster gives no power.
    """

    makespan_s: float
    latency_s: float
    payload_bytes: int
    wire_bytes: int
    compute_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    peak_memory_bytes: tuple[int, ...]
    energy_j: tuple[float, ...]
    links: tuple[LinkBytes, ...]
    client_links: tuple[LinkBytes, ...]
    timeline: tuple[Span, ...] = field(default=(), repr=False)

    @property
    def input_bytes(self) -> int:
        """Payload that the client sends to the devices."""
        return sum([link.payload_bytes for link in self.client_links if link.source == CLIENT])

    @property
    def output_bytes(self) -> int:
        """Payload that the client receives."""
        return sum([link.payload_bytes for link in self.client_links if link.destination == CLIENT])

    @property
    def total_bytes(self) -> int:
        """Payload of all messages: between devices, the input and the output."""
        return self.payload_bytes + sum([link.payload_bytes for link in self.client_links])


def simulate(plan: Plan, cluster: Cluster, batch: int = 1, timeline: bool = False) -> Simulation:
    """Simulate one request of ``batch`` samples; ``timeline`` also records every span.

    Raises :class:`PlanError` if the cluster has fewer devices than the plan or lacks a link for a message, and
    :class:`SpecError` if a device's profile cannot predict the time of a segment.
    """
    work = Work(plan, cluster, batch, with_tasks=timeline)
    passage = take_turns(work)
    links, client_links = _link_bytes(work)
    makespan_s = max(passage.done_s)
    return Simulation(
        makespan_s=makespan_s,
        latency_s=passage.latency_s,
        payload_bytes=sum([link.payload_bytes for link in links]),
        wire_bytes=sum([link.wire_bytes for link in links]),
        compute_s=tuple([device.compute_s for device in work.devices]),
        busy_s=tuple([device.busy_s for device in work.devices]),
        peak_memory_bytes=tuple([peak_memory_bytes(plan, rank, batch) for rank in range(plan.num_devices)]),
        energy_j=_energy_j(work, links, makespan_s),
        links=links,
        client_links=client_links,
        timeline=tuple(_timeline(work, passage)) if timeline else (),
    )


def _link_bytes(work: Work) -> tuple[tuple[LinkBytes, ...], tuple[LinkBytes, ...]]:
    """The bytes of each link between devices, and of each link of the client."""
    carried: dict[tuple[int, int], list[int]] = {}  # payload bytes and number of messages of each pair
    for _, pair, nbytes, _ in work.messages:
        sums = carried.get(pair)
        if sums is None:
            carried[pair] = [nbytes, 1]
        else:
            sums[0] += nbytes
            sums[1] += 1
    links: list[LinkBytes] = []
    client_links: list[LinkBytes] = []
    for pair, sums in sorted(carried.items()):
        (client_links if CLIENT in pair else links).append(_link_of(*pair, *sums))
    return tuple(links), tuple(client_links)


@lru_cache(maxsize=1 << 12)
def _link_of(source: int, destination: int, payload_bytes: int, num_messages: int) -> LinkBytes:
    return LinkBytes(source, destination, payload_bytes, payload_bytes + FRAME_HEADER_BYTES * num_messages)


def _energy_j(work: Work, links: tuple[LinkBytes, ...], makespan_s: float) -> tuple[float, ...]:
    """Idle power over the makespan, computing power over the busy time, and the energy of each byte."""
    wire_bytes = [0] * len(work.devices)
    for link in links:
        wire_bytes[link.source] += link.wire_bytes
        wire_bytes[link.destination] += link.wire_bytes
    joules = []
    for device, part, nbytes in zip(work.cluster.devices, work.devices, wire_bytes, strict=False):
        power = device.power
        joules.append(power.idle_w * makespan_s + power.compute_w * part.busy_s + power.energy_per_byte_j * nbytes)
    return tuple(joules)


def _timeline(work: Work, passage: Passage) -> list[Span]:
    """The spans of every device in order, device by device, after the transfers in order."""
    routes = routes_of(work.cluster)
    spans = [
        Span(pair[0], "transfer", tensor, passage.sent_s[tag], passage.arrival_s[tag], pair[1], nbytes)
        for tag, pair, nbytes, tensor in work.messages
        if routes[pair] is not None
    ]
    for rank, device in enumerate(work.devices):
        takes = {step.tag: step for step in work.plan.programs[rank] if isinstance(step, Recv)}
        now = 0.0
        for leg, tasks in zip([*device.legs, None], device.tasks, strict=True):
            for doing, name, seconds in tasks:
                spans.append(Span(rank, doing, name, now, now + seconds))
                now += seconds
            if leg is None or leg[1] not in takes or passage.arrival_s[leg[1]] <= now:
                continue
            take, arrival_s = takes[leg[1]], passage.arrival_s[leg[1]]
            spans.append(Span(rank, "wait", take.tensor, now, arrival_s, take.source))
            now = arrival_s
    return spans
