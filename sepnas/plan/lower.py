"""Lowering: an architecture and its transmission policy become the steps of each device.

A device computes in as few segments as it can: a segment ends where something is sent or merged.
Sends are posted before the device waits for anything, those of lag 0 first, for they are waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import count

from sepnas.plan.network import FLOAT_BYTES, Layer, device_layers, has_head
from sepnas.plan.steps import CLIENT, Compute, Merge, MergeKind, Plan, Recv, Region, Segment, Send, Shape, Step
from sepnas.spec.architecture import Architecture
from sepnas.spec.policy import ExchangePoint, Transfer


def lower(architecture: Architecture) -> Plan:
    """The plan of an architecture as its policy says, dead transfers included (see ``liveness``)."""
    traffic = _Traffic(architecture)
    programs = [_Program(architecture, traffic, rank) for rank in range(architecture.num_devices)]
    for program in programs:
        program.write()
    return Plan(
        programs=tuple(tuple(p.steps) for p in programs),
        segments=tuple(p.segments for p in programs),
        shapes=tuple(p.shapes for p in programs),
        reader=architecture.policy.readout.device,
        answer=Shape(architecture.num_classes),
    )


class _Traffic:
    """The transfers of a policy by sender and by receiver, each with its tag."""

    def __init__(self, architecture: Architecture) -> None:
        tags = count(architecture.num_devices)  # tags below are the client's inputs
        self.sent: dict[tuple[int, int], list[tuple[Transfer, int]]] = defaultdict(list)
        self.due: dict[tuple[int, int], list[tuple[ExchangePoint, Transfer, int]]] = defaultdict(list)
        for point in architecture.policy.points:
            tag_of = {id(t): next(tags) for t in sorted(point.transfers, key=self._turn(architecture.num_devices))}
            for transfer in point.transfers:
                tag = tag_of[id(transfer)]
                self.sent[point.after, transfer.source].append((transfer, tag))
                # points stand in order, so what comes late (lag 1) from the point before is listed first
                self.due[point.after + transfer.lag, transfer.destination].append((point, transfer, tag))
        self.logits = {rank: next(tags) for rank in range(architecture.num_devices)}
        self.answer = next(tags)

    @staticmethod
    def _turn(num_devices: int) -> Callable[[Transfer], tuple[int, int, int]]:
        """Awaited messages first, then by shift: no two senders of a turn have the same receiver."""
        return lambda t: (t.lag, (t.destination - t.source) % num_devices, t.source)


class _Program:
    """Writes one device's steps."""

    def __init__(self, architecture: Architecture, traffic: _Traffic, rank: int) -> None:
        self.architecture, self.traffic, self.rank = architecture, traffic, rank
        self.layers = device_layers(architecture, rank)
        self.steps: list[Step] = []
        self.segments: dict[str, Segment] = {}
        self.shapes: dict[str, Shape] = {}
        self.current = "x"
        self.pending: list[Layer] = []

    def write(self) -> None:
        size = self.architecture.image_size
        self.shapes["x"] = Shape(self.architecture.in_channels, size, size)
        self.steps.append(Recv(tag=self.rank, source=CLIENT, tensor="x"))
        self.pending.append(self.layers[0])
        for block in range(self.architecture.num_blocks):
            self.pending.append(self.layers[1 + block])
            sent = self.traffic.sent.get((block, self.rank), ())
            due = self.traffic.due.get((block, self.rank), ())
            if sent or due:
                self._compute(f"b{block}")
            for transfer, tag in sorted(sent, key=lambda each: each[1]):
                self._send(f"b{block}", transfer, tag, block)
            if due:
                self._merge(block, due)
        self._read_out()

    def _compute(self, output: str) -> None:
        layers = self.pending
        segment = Segment(
            name=f"s{len(self.segments)}",
            device=self.rank,
            layers=tuple(layer.name for layer in layers),
            flops=2 * sum(layer.macs for layer in layers),
            num_kernels=sum(layer.num_kernels for layer in layers),
            weight_bytes=FLOAT_BYTES * sum(layer.num_weights for layer in layers),
            activation_bytes=FLOAT_BYTES * max(layer.peak_values for layer in layers),
        )
        self.segments[segment.name] = segment
        self.shapes[output] = layers[-1].output
        self.steps.append(Compute(segment.name, (self.current,), output))
        self.current, self.pending = output, []

    def _send(self, tensor: str, transfer: Transfer, tag: int, block: int) -> None:
        shape = self.shapes[tensor]
        channels = transfer.num_channels(shape.channels, self._channels(transfer.destination, block))
        region = Region((0, channels), (0, shape.height))
        self.steps.append(Send(tensor, region, transfer.wire, transfer.destination, tag))

    def _channels(self, rank: int, block: int) -> int:
        return self.architecture.parts[rank].stage_channels(self.architecture.stage_of(block))

    def _merge(self, block: int, due: list[tuple[ExchangePoint, Transfer, int]]) -> None:
        own, received = self.shapes[self.current], []
        for _, transfer, tag in due:
            name = f"r{tag}"
            channels = transfer.num_channels(self._channels(transfer.source, block), own.channels)
            self.shapes[name] = Shape(channels, own.height, own.width)
            self.steps.append(Recv(tag, transfer.source, name))
            received.append(name)
        weighted = any(point.merge == "weighted" for point, _, _ in due)
        kind: MergeKind = "weighted" if weighted else "mean"
        parameter = f"merge{block}" if weighted else None
        self._put_merge(kind, tuple(received), f"m{block}", parameter)

    def _put_merge(self, kind: MergeKind, received: tuple[str, ...], output: str, parameter: str | None) -> None:
        self.shapes[output] = self.shapes[self.current]
        self.steps.append(Merge(kind, (self.current, *received), output, parameter))
        self.current = output

    def _read_out(self) -> None:
        readout = self.architecture.policy.readout
        if has_head(self.architecture, self.rank):
            self.pending.append(self.layers[-1])
        if self.pending:
            self._compute("logits" if has_head(self.architecture, self.rank) else "features")
        whole = Region.whole(Shape(self.architecture.num_classes))
        if self.rank != readout.device:
            if readout.kind == "mean":
                self.steps.append(Send("logits", whole, "fp32", readout.device, self.traffic.logits[self.rank]))
            return
        if readout.kind == "mean" and self.architecture.num_devices > 1:
            self._gather_logits()
        self.steps.append(Send(self.current, whole, "fp32", CLIENT, self.traffic.answer))

    def _gather_logits(self) -> None:
        received = []
        for peer in range(self.architecture.num_devices):
            if peer != self.rank:
                name, tag = f"logits{peer}", self.traffic.logits[peer]
                self.shapes[name] = Shape(self.architecture.num_classes)
                self.steps.append(Recv(tag, peer, name))
                received.append(name)
        self._put_merge("mean", tuple(received), "answer", None)
