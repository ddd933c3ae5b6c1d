"""Lowering: an architecture and its transmission policy become the steps of each device.

A device computes in as few segments as it can: a segment ends where something is sent or merged.
Sends are posted before the device waits for anything, those of lag 0 first, for they are waited for.
"""

from __future__ import annotations

from functools import lru_cache

from sepnas.plan.network import PartTable, has_head, network_table
from sepnas.plan.steps import CLIENT, Compute, Merge, MergeKind, Plan, Recv, Region, Segment, Send, Shape, Step
from sepnas.plan.traffic import Arrivals, Event, events_of, live_events
from sepnas.spec.architecture import Architecture


def lower(architecture: Architecture, live: bool = False) -> Plan:
    """The plan of an architecture as its policy says.

    With ``live`` it has only what the answer needs: the same as ``liveness.prune`` makes of it, in half the time.
    """
    network = network_table(architecture)
    events = events_of(architecture.policy, network)
    if live:
        readers = {rank for rank in range(architecture.num_devices) if has_head(architecture, rank)}
        events = live_events(events, readers)
    programs = [_Program(architecture, table, live) for table in network.parts]
    for program in programs:
        program.write(events)
    return Plan(
        programs=tuple(tuple(p.steps) for p in programs),
        segments=tuple(p.segments for p in programs),
        shapes=tuple(p.shapes for p in programs),
        reader=architecture.policy.readout.device,
        answer=Shape(architecture.num_classes),
    )


class _Program:
    """Writes one device's steps."""

    def __init__(self, architecture: Architecture, table: PartTable, live: bool) -> None:
        self.architecture, self.table, self.rank, self.live = architecture, table, table.rank, live
        self.steps: list[Step] = []
        self.segments: dict[str, Segment] = {}
        self.shapes: dict[str, Shape] = {}
        self.current = "x"
        self.next_layer = 0

    def write(self, events: list[Event]) -> None:
        if self.live and not (has_head(self.architecture, self.rank) or any(self.rank in e.sends for e in events)):
            return
        size = self.architecture.image_size
        self.shapes["x"] = Shape(self.architecture.in_channels, size, size)
        self.steps.append(Recv(tag=self.rank, source=CLIENT, tensor="x"))
        for event in events:
            sends = event.sends.get(self.rank)
            due = event.late.get(self.rank, ()) + event.prompt.get(self.rank, ())
            if sends or due:
                self._compute(event.block + 1, f"b{event.block}")
            if sends:
                self.steps.extend(sends)
            if due:
                self._merge(event.block, due, event.is_weighted(self.rank))
        self._read_out()

    def _compute(self, last_layer: int, output: str) -> None:
        segment = self.table.segment(self.next_layer, last_layer)
        self.segments[segment.name] = segment
        self.shapes[output] = self.table.outputs[last_layer]
        self.steps.append(_compute(segment.name, self.current, output))
        self.current, self.next_layer = output, last_layer + 1

    def _merge(self, block: int, due: Arrivals, weighted: bool) -> None:
        inputs = [self.current]
        for recv, shape in due:
            self.shapes[recv.tensor] = shape
            self.steps.append(recv)
            inputs.append(recv.tensor)
        if weighted:
            self._put_merge("weighted", tuple(inputs), f"m{block}", f"merge{block}")
        else:
            self._put_merge("mean", tuple(inputs), f"m{block}")

    def _put_merge(self, kind: MergeKind, inputs: tuple[str, ...], output: str, parameter: str | None = None) -> None:
        self.shapes[output] = self.shapes[self.current]
        self.steps.append(_merge(kind, inputs, output, parameter))
        self.current = output

    def _read_out(self) -> None:
        readout, num_layers = self.architecture.policy.readout, len(self.table.layers)
        if has_head(self.architecture, self.rank):
            self._compute(num_layers - 1, "logits")
        elif not self.live and self.next_layer < num_layers - 1:
            self._compute(num_layers - 2, "features")
        whole = Region.whole(Shape(self.architecture.num_classes))
        if self.rank != readout.device:
            if readout.kind == "mean":
                self.steps.append(Send("logits", whole, "fp32", readout.device, self._logits_tag(self.rank)))
            return
        if readout.kind == "mean" and self.architecture.num_devices > 1:
            self._gather_logits()
        self.steps.append(Send(self.current, whole, "fp32", CLIENT, self._logits_tag(self.architecture.num_devices)))

    def _gather_logits(self) -> None:
        received = []
        for peer in range(self.architecture.num_devices):
            if peer != self.rank:
                name, tag = f"logits{peer}", self._logits_tag(peer)
                self.shapes[name] = Shape(self.architecture.num_classes)
                self.steps.append(Recv(tag, peer, name))
                received.append(name)
        self._put_merge("mean", (self.current, *received), "answer")

    def _logits_tag(self, rank: int) -> int:
        """After all points; that of the rank past the last is the answer's."""
        num_devices = self.architecture.num_devices
        return num_devices * (1 + 2 * self.architecture.num_blocks * num_devices) + rank


@lru_cache(maxsize=1 << 14)
def _compute(segment: str, tensor: str, output: str) -> Compute:
    """Steps are immutable and many alike: one object serves all."""
    return Compute(segment, (tensor,), output)


@lru_cache(maxsize=1 << 16)
def _merge(kind: MergeKind, inputs: tuple[str, ...], output: str, parameter: str | None) -> Merge:
    return Merge(kind, inputs, output, parameter)
