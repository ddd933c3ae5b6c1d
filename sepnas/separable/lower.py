"""Lowering: an architecture and its transmission policy become the steps of each device.

A device computes in as few segments as possible: a segment ends only before a send or a merge.
Sends are posted before the device waits for anything; those of lag 0 go first, because their receivers wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sepnas.plan.merge_rules import MERGE_RULES, MERGERS
from sepnas.plan.plan import Piece, Plan, Port, Segment
from sepnas.plan.shapes import FLOAT_BYTES, Region, Shape
from sepnas.plan.steps import CLIENT, Merge, Recv, Send, Step
from sepnas.plan.wire import PIXELS
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.layers import PartTable, network_table
from sepnas.separable.transfers import Event, crossings_of, events_of, live_crossings


def lower(architecture: Architecture, live: bool = False) -> Plan:
    """The plan of an architecture under its policy.

    With ``live`` it has only the steps that the answer needs: the result of ``liveness.prune`` in half the time.
    """
    parts, readout = network_table(architecture), architecture.policy.readout
    ranks = range(len(parts))
    readers = ranks if readout.kind == "mean" else (readout.device,)
    points, working = crossings_of(architecture.policy, parts), set(ranks)
    if live:
        points, working = live_crossings(points, readers, len(parts))
    programs = [_Program(table) for table in parts]
    image = Shape.chw(architecture.in_channels, architecture.image_size, architecture.image_size)
    for rank in working:
        programs[rank].start(image)
    for event in events_of(points):
        _write_event(programs, event)
    if not live:
        for rank in working.difference(readers):
            programs[rank].compute_features()
    logits = _read_out(programs, readers, readout.device, architecture)
    return Plan(
        programs=tuple([tuple(p.steps) for p in programs]),
        segments=tuple([p.segments for p in programs]),
        shapes=tuple([p.shapes for p in programs]),
        inputs=_image_port(image, tuple(sorted(working))),
        outputs=(logits,),
        tensors_bytes=tuple([p.tensors_bytes() for p in programs]),
        even=_parts_are_equal(architecture.parts),
    )


def _parts_are_equal(parts: Sequence[DevicePart]) -> bool:
    first = parts[0]
    return all(part is first or part == first for part in parts)


class _Program:
    """One device's steps while they are written.

    A program is a chain: each computation and merge takes the previous result, and a merge also takes all messages
    received since the last merge. So peak memory is known at once: all message buffers, which exist from the start,
    plus the maximum over the steps of a step's own memory minus the messages merged before it.
    """

    __slots__ = (
        "current", "due", "due_values", "merged_bytes", "most_bytes", "next_layer", "segments", "shapes", "steps",
        "strength", "table",
    )  # fmt: skip

    def __init__(self, table: PartTable) -> None:
        self.table = table
        self.steps: list[Step] = []
        self.segments: dict[str, Segment] = {}
        self.shapes: dict[str, Shape] = {}
        self.current = "x"
        self.next_layer = 0
        self.due: list[str] = []
        self.strength = 0
        self.due_values = self.merged_bytes = self.most_bytes = 0

    def start(self, image: Shape) -> None:
        self.shapes["x"] = image
        self.steps.append(_recv(self.table.rank, CLIENT, "x"))

    def compute(self, last_layer: int, output: str) -> None:
        step, segment, shape, working_bytes = self.table.runs[self.next_layer, last_layer, self.current, output]
        if working_bytes - self.merged_bytes > self.most_bytes:
            self.most_bytes = working_bytes - self.merged_bytes
        self.segments[step.segment] = segment
        self.shapes[output] = shape
        self.steps.append(step)
        self.current, self.next_layer = output, last_layer + 1

    def receive(self, recv: Recv, shape: Shape) -> None:
        tensor = recv.tensor
        self.shapes[tensor] = shape
        self.steps.append(recv)
        self.due.append(tensor)
        self.due_values += shape.num_values

    def merge(self, step: Merge) -> None:
        """Merge the device's own tensor with the messages received since the last merge."""
        shape = self.shapes[step.output] = self.shapes[self.current]
        self.steps.append(step)
        self.current = step.output
        working_bytes = 2 * FLOAT_BYTES * shape.num_values  # input and output
        if working_bytes - self.merged_bytes > self.most_bytes:
            self.most_bytes = working_bytes - self.merged_bytes
        self.merged_bytes += FLOAT_BYTES * self.due_values
        self.due, self.due_values, self.strength = [], 0, 0

    def tensors_bytes(self) -> int:
        """Peak bytes of tensors and buffers for one sample."""
        return self.most_bytes + self.merged_bytes + FLOAT_BYTES * self.due_values

    def compute_features(self) -> None:
        """Run all layers up to the head."""
        last = len(self.table.layers) - 2
        if self.next_layer <= last:
            self.compute(last, "features")


def _write_event(programs: list[_Program], event: Event) -> None:
    """Written out, without calls for each transfer: a search spends a good part of its time here."""
    block, sends, late, prompt, late_strength, prompt_strength = event
    layer, tensor = block + 1, f"b{block}"
    for crossing in sends:
        program = programs[crossing.source]
        if program.next_layer <= layer:
            program.compute(layer, tensor)
        program.steps.append(crossing.send)
    for arrivals, strength in ((late, late_strength), (prompt, prompt_strength)):
        for crossing in arrivals:
            program = programs[crossing.destination]
            if program.next_layer <= layer:
                program.compute(layer, tensor)
            recv, shape = crossing.recv, crossing.shape
            program.shapes[recv.tensor] = shape
            program.steps.append(recv)
            program.due.append(recv.tensor)
            program.due_values += shape.num_values
            if strength > program.strength:
                program.strength = strength
    if late or prompt:
        for program in programs:
            if program.due:
                program.merge(_block_merge(block, program.strength, program.current, *program.due))


def _read_out(programs: list[_Program], readers: Sequence[int], reader: int, architecture: Architecture) -> Port:
    """Compute the readers' logits and gather them on ``reader``, which answers; returns the output port."""
    num_devices, num_classes = len(programs), architecture.num_classes
    first_tag = num_devices * (1 + 2 * architecture.num_blocks * num_devices)  # after the tags of all points
    for rank in readers:
        programs[rank].compute(len(programs[rank].table.layers) - 1, "logits")
        if rank != reader:
            programs[rank].steps.append(_send_logits("logits", num_classes, reader, first_tag + rank))
    answering = programs[reader]
    for peer in readers:
        if peer != reader:
            answering.receive(_recv(first_tag + peer, peer, f"logits{peer}"), Shape.vector(num_classes))
    if answering.due:
        answering.merge(_answer_merge(answering.current, *answering.due))
    answering.steps.append(_send_logits(answering.current, num_classes, CLIENT, first_tag + num_devices))
    return _logits_port(num_classes, first_tag, num_devices, reader, len(readers) > 1)


def merge_parameter(block: int) -> str:
    """The name of a device's weights for the learned merge after a block."""
    return f"merge{block}"


# Steps are immutable and often equal: equal steps share one object.


@lru_cache(maxsize=1 << 14)
def _block_merge(block: int, strength: int, *inputs: str) -> Merge:
    rule = MERGE_RULES[strength]
    return Merge(MERGERS[rule].kind, inputs, f"m{block}", merge_parameter(block) if MERGERS[rule].learned else None)


@lru_cache(maxsize=1 << 10)
def _answer_merge(*inputs: str) -> Merge:
    return Merge("mean", inputs, "answer")


@lru_cache(maxsize=1 << 10)
def _recv(tag: int, source: int, tensor: str) -> Recv:
    return Recv(tag, source, tensor)


@lru_cache(maxsize=1 << 10)
def _send_logits(tensor: str, num_classes: int, to: int, tag: int) -> Send:
    return Send(tensor, Region.whole(Shape.vector(num_classes)), "fp32", to, tag)


@lru_cache(maxsize=1 << 10)
def _image_port(image: Shape, ranks: tuple[int, ...]) -> tuple[Port, ...]:
    """The port that sends the whole image to each of these ranks."""
    return (Port.whole("image", image, *[(rank, rank) for rank in ranks], wire=PIXELS),)


@lru_cache(maxsize=1 << 10)
def _logits_port(num_classes: int, first_tag: int, num_devices: int, reader: int, gathered: bool) -> Port:
    """The output port: the reader's answer, with the gathered logits of other devices as fallbacks."""
    shape = Shape.vector(num_classes)
    whole = Region.whole(shape)
    others = [rank for rank in range(num_devices) if gathered and rank != reader]
    return Port(
        "logits",
        shape,
        (Piece(whole, reader, first_tag + num_devices),),
        tuple([Piece(whole, rank, first_tag + rank) for rank in others]),
    )
