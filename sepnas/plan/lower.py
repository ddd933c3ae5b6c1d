"""Lowering: an architecture and its transmission policy become the steps of each device.

A device computes in as few segments as it can: a segment ends where something is sent or merged.
Sends are posted before the device waits for anything, those of lag 0 first, for they are waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from sepnas.plan.network import PartTable, has_head, part_tables
from sepnas.plan.steps import CLIENT, Compute, Merge, MergeKind, Plan, Recv, Region, Segment, Send, Shape, Step
from sepnas.spec.architecture import Architecture
from sepnas.spec.policy import ExchangePoint, Transfer


def lower(architecture: Architecture) -> Plan:
    """The plan of an architecture as its policy says, dead transfers included (see ``liveness``)."""
    tables = part_tables(architecture)
    traffic = _Traffic(architecture, tables)
    programs = [_Program(architecture, table, traffic) for table in tables]
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
    """The transfers of a policy as steps, by the device and block where they happen.

    ``due`` lists what a device merges after a block in the order of merging; what comes late (lag 1, from the
    point before) stands first, because points stand in order.
    """

    def __init__(self, architecture: Architecture, tables: tuple[PartTable, ...]) -> None:
        num_devices = architecture.num_devices
        tags = count(num_devices)  # tags below are the client's inputs
        self.sent: dict[tuple[int, int], list[Send]] = {}
        self.due: dict[tuple[int, int], list[tuple[Recv, Shape]]] = {}
        self.weighted: set[tuple[int, int]] = set()
        for point in architecture.policy.points:
            self._add(point, tags, tables)
        self.logits = [next(tags) for _ in range(num_devices)]
        self.answer = next(tags)

    def _add(self, point: ExchangePoint, tags: count[int], tables: tuple[PartTable, ...]) -> None:
        tensor, layer = f"b{point.after}", point.after + 1
        turn = sorted(range(len(point.transfers)), key=_turn(point.transfers, len(tables)))
        tag_of = dict(zip(turn, tags, strict=False))
        for index in turn:
            transfer = point.transfers[index]
            own = tables[transfer.source].outputs[layer]
            channels = transfer.num_channels(own.channels, tables[transfer.destination].outputs[layer].channels)
            region = Region((0, channels), (0, own.height))
            send = Send(tensor, region, transfer.wire, transfer.destination, tag_of[index])
            self.sent.setdefault((point.after, transfer.source), []).append(send)
        for index, transfer in enumerate(point.transfers):
            own = tables[transfer.destination].outputs[layer]
            channels = transfer.num_channels(tables[transfer.source].outputs[layer].channels, own.channels)
            recv = Recv(tag_of[index], transfer.source, f"r{tag_of[index]}")
            place = (point.after + transfer.lag, transfer.destination)
            self.due.setdefault(place, []).append((recv, Shape(channels, own.height, own.width)))
            if point.merge == "weighted":
                self.weighted.add(place)


def _turn(transfers: tuple[Transfer, ...], num_devices: int) -> Callable[[int], tuple[int, int, int]]:
    """Awaited messages first, then by shift: no two senders of a turn have the same receiver."""

    def key(index: int) -> tuple[int, int, int]:
        transfer = transfers[index]
        return transfer.lag, (transfer.destination - transfer.source) % num_devices, transfer.source

    return key


class _Program:
    """Writes one device's steps."""

    def __init__(self, architecture: Architecture, table: PartTable, traffic: _Traffic) -> None:
        self.architecture, self.table, self.traffic, self.rank = architecture, table, traffic, table.rank
        self.steps: list[Step] = []
        self.segments: dict[str, Segment] = {}
        self.shapes: dict[str, Shape] = {}
        self.current = "x"
        self.next_layer = 0

    def write(self) -> None:
        size = self.architecture.image_size
        self.shapes["x"] = Shape(self.architecture.in_channels, size, size)
        self.steps.append(Recv(tag=self.rank, source=CLIENT, tensor="x"))
        for block in range(self.architecture.num_blocks):
            place = (block, self.rank)
            sent, due = self.traffic.sent.get(place), self.traffic.due.get(place)
            if sent or due:
                self._compute(block + 1, f"b{block}")
            if sent:
                self.steps.extend(sent)
            if due:
                self._merge(block, due)
        self._read_out()

    def _compute(self, last_layer: int, output: str) -> None:
        segment = self.table.segment(self.next_layer, last_layer)
        self.segments[segment.name] = segment
        self.shapes[output] = self.table.outputs[last_layer]
        self.steps.append(Compute(segment.name, (self.current,), output))
        self.current, self.next_layer = output, last_layer + 1

    def _merge(self, block: int, due: list[tuple[Recv, Shape]]) -> None:
        for recv, shape in due:
            self.shapes[recv.tensor] = shape
            self.steps.append(recv)
        weighted = (block, self.rank) in self.traffic.weighted
        received = tuple(recv.tensor for recv, _ in due)
        self._put_merge(
            "weighted" if weighted else "mean", received, f"m{block}", f"merge{block}" if weighted else None
        )

    def _put_merge(self, kind: MergeKind, received: tuple[str, ...], output: str, parameter: str | None) -> None:
        self.shapes[output] = self.shapes[self.current]
        self.steps.append(Merge(kind, (self.current, *received), output, parameter))
        self.current = output

    def _read_out(self) -> None:
        readout, num_layers = self.architecture.policy.readout, len(self.table.layers)
        if has_head(self.architecture, self.rank):
            self._compute(num_layers - 1, "logits")
        elif self.next_layer < num_layers - 1:
            self._compute(num_layers - 2, "features")
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
