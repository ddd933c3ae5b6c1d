"""Lowers a graph and the layouts of its tensors to a plan: what is missing on a device is sent to it.

Each device computes its regions of each node. A region of a tensor that it needs and does not compute is sent by those
that do, as soon as they have it, and awaited where it is needed: all-gathers, halo exchanges, pipelines and changes of
layout are all of this form. Partial results are sent to the devices that keep the whole, and merged there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from sepnas.errors import PlanError
from sepnas.partition.device_program import Held, ProgramBuilder
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts, work_of
from sepnas.partition.regions import contains, intersection, remaining, within
from sepnas.partition.tied import tied
from sepnas.plan.kinds.kind import whole
from sepnas.plan.plan import Piece, Plan, Port
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Merge, Recv, Send
from sepnas.plan.validation import check_plan
from sepnas.plan.wire import PIXELS, UNCONVERTED, WireFormat


@dataclass(frozen=True)
class _Arrival:
    """A message that is sent and not yet received: a region of a tensor of the graph."""

    tag: int
    source: int
    region: Region


Wires: TypeAlias = Mapping[tuple[str, int], WireFormat]
"""The format of what a device is sent of a tensor, by the tensor's name and the device."""
_NO_WIRES: Wires = MappingProxyType({})


def lower(
    graph: Graph, layouts: Layouts, num_devices: int, wire: WireFormat = UNCONVERTED, wires: Wires = _NO_WIRES
) -> Plan:
    """The plan in which each device computes its regions; the devices exchange what they lack in format ``wire``.

    ``wires`` has other formats of some tensors.

    An output is sent to the client by a device that computes all of it; otherwise device 0 gathers it. Operators
    between which a tensor cannot be sent are computed where their results are needed (:mod:`sepnas.partition.tied`).

    Raises :class:`PlanError` if an operator cannot be cut as its layout says, or an output cannot be sent.
    """
    lowering = _Lowering(graph, tied(graph, layouts), num_devices, wire, wires)
    plan = lowering.plan()
    check_plan(plan, f"the plan of '{graph.name}'")
    return plan


class _Lowering:
    def __init__(self, graph: Graph, layouts: Layouts, num_devices: int, wire: WireFormat, wires: Wires) -> None:
        self.graph, self.wire, self.wires = graph, wire, wires
        check_floats(graph)
        self.stored = graph.stored
        self.programs = [ProgramBuilder(rank) for rank in range(num_devices)]
        self.answering = _answering(graph, layouts)
        self.work = work_of(graph, layouts, self.answering)
        self.arrivals: dict[tuple[str, int, Region], list[_Arrival]] = {}
        self.tag = 0

    def plan(self) -> Plan:
        inputs = tuple(self._input(name) for name in self.graph.inputs)
        for node in self.graph.nodes:
            self._node(node)
        outputs = tuple(self._output(output.name, output.tensor) for output in self.graph.outputs)
        done = [program.finished() for program in self.programs]
        steps, segments, shapes = zip(*done, strict=True)
        return Plan(steps, segments, shapes, tuple(port for port in inputs if port.pieces), outputs)

    def _shape(self, tensor: str, region: Region) -> Shape:
        return Shape(region.dims[1:], self.graph.tensors[tensor].axes[1:])

    def _next_tag(self) -> int:
        self.tag += 1
        return self.tag - 1

    def _input(self, name: str) -> Port:
        """The port of an input: each device is sent the regions that it needs; of an image as bytes."""
        pieces = []
        wire = PIXELS if name == self.graph.image_input else UNCONVERTED
        for device, regions in self.work.needs.get(name, {}).items():
            for region in regions:
                tag = self._next_tag()
                pieces.append(Piece(Region(region.ranges[1:]), device, tag, wire))
                self.arrivals[name, device, region] = [_Arrival(tag, CLIENT, region)]
        tensor = self.graph.tensors[name]
        return Port(name, Shape(tensor.dims[1:], tensor.axes[1:]), tuple(pieces))

    def _node(self, node: GraphNode) -> None:
        made: list[tuple[int, tuple[Held, ...]]] = []
        axes = tuple(self.graph.tensors[name].axes for name in node.outputs)
        for part in self.work.parts[node.name]:
            program = self.programs[part.device]
            operands = {
                role: self._held(part.device, node.inputs[role], region)
                for role, region in part.needs.items()
                if node.inputs[role] not in self.stored
            }
            made.append((part.device, program.compute(part, operands, axes)))
        if self.work.layouts[node.name].spans:
            self._merge(node, {device: held for device, (held,) in made})
        else:
            for device, found in made:
                for name, held in zip(node.outputs, found, strict=True):
                    self.programs[device].held.setdefault(name, []).append(held)
        for name in node.outputs:
            self._post(name)

    def _held(self, device: int, tensor: str, region: Region) -> Held:
        """A held tensor with this region; what is missing is received and put together."""
        program = self.programs[device]
        found = program.find(tensor, region)
        if found is not None:
            return found
        need = next(each for each in self.work.needs[tensor][device] if contains(each, region))
        pieces = [(own, self.programs[device].narrowed(held, own)) for own, held in self._own(device, tensor, need)]
        for arrival in self.arrivals.pop((tensor, device, need)):
            name = program.new(tensor, arrival.region.dims, self.graph.tensors[tensor].axes)
            program.step(Recv(arrival.tag, arrival.source, name))
            pieces.append((arrival.region, name))
        held = need, self._assembled(program, tensor, need, pieces)
        program.held.setdefault(tensor, []).append(held)
        return held

    def _own(self, device: int, tensor: str, need: Region) -> list[tuple[Region, Held]]:
        """Disjoint regions of a need that the device has computed, with the held tensor of each."""
        left, found = [need], []
        for held in self.programs[device].held.get(tensor, ()):
            taken = [each for box in left if (each := intersection(box, held[0]))]
            found += [(each, held) for each in taken]
            left = remaining(left, [held[0]])
        return found

    def _assembled(self, program: ProgramBuilder, tensor: str, need: Region, pieces: list[tuple[Region, str]]) -> str:
        if len(pieces) == 1:
            return pieces[0][1]
        name = program.new(tensor, need.dims, self.graph.tensors[tensor].axes)
        offsets = tuple(tuple(start for start, _ in within(own, need).ranges[1:]) for own, _ in pieces)
        program.step(Merge("assemble", tuple(each for _, each in pieces), name, offsets=offsets))
        return name

    def _merge(self, node: GraphNode, partial: dict[int, Held]) -> None:
        """Send each device that keeps a piece of the whole the others' partial results, and merge them there."""
        terms_of = node.kind.terms(self.graph.use(node)) if node.kind else None
        assert terms_of is not None  # as its parts were made
        [tensor], pieces = node.outputs, self.work.layouts[node.name].pieces
        sent: dict[tuple[int, Region], list[tuple[int, int]]] = {}
        for source, (_, name) in partial.items():
            for device, region in pieces:
                if device != source:
                    tag = self._send(source, tensor, (whole(self.graph.tensors[tensor].dims), name), region, device)
                    sent.setdefault((device, region), []).append((tag, source))
        axes = self.graph.tensors[tensor].axes
        for device, region in pieces:
            program = self.programs[device]
            terms = [program.narrowed(partial[device], region)] if device in partial else []
            for tag, source in sent.get((device, region), ()):
                terms.append(program.new(tensor, region.dims, axes))
                program.step(Recv(tag, source, terms[-1]))
            total = program.new(tensor, region.dims, axes) if len(terms) > 1 else terms[0]
            if len(terms) > 1:
                program.step(Merge(terms_of.merge, tuple(terms), total, axis=axes[1]))
            program.held.setdefault(tensor, []).append((region, total))

    def _send(self, source: int, tensor: str, held: Held, region: Region, to: int) -> int:
        outer, name = held
        tag = self._next_tag()
        self.programs[source].shape(name)  # refuses a tensor that cannot be sent
        wire = UNCONVERTED if to == CLIENT else self.wires.get((tensor, to), self.wire)
        self.programs[source].step(Send(name, Region(within(region, outer).ranges[1:]), wire, to, tag))
        return tag

    def _post(self, tensor: str) -> None:
        """Send a new tensor to the devices that need regions of it and lack them."""
        for device, regions in self.work.needs.get(tensor, {}).items():
            for need in regions:
                if self.programs[device].find(tensor, need) is None:
                    self.arrivals[tensor, device, need] = list(self._posted(tensor, device, need))

    def _posted(self, tensor: str, device: int, need: Region) -> Iterator[_Arrival]:
        left = remaining([need], [own for own, _ in self._own(device, tensor, need)])
        for source in sorted(range(len(self.programs)), key=lambda rank: (abs(rank - device), rank)):
            for held in tuple(self.programs[source].held.get(tensor, ())) if source != device else ():
                for box in left:
                    common = intersection(box, held[0])
                    if common is not None:
                        yield _Arrival(self._send(source, tensor, held, common, device), source, common)
                left = remaining(left, [held[0]])
        if left:
            raise PlanError(f"no device computes {left[0].ranges} of tensor '{tensor}', which device {device} needs")

    def _output(self, name: str, tensor: str) -> Port:
        device, region = self.answering[tensor], whole(self.graph.tensors[tensor].dims)
        held = self._held(device, tensor, region)
        tag = self._send(device, tensor, held, region, CLIENT)
        return Port.whole(name, self._shape(tensor, region), (device, tag))


def needed(graph: Graph, layouts: Layouts) -> Layouts:
    """Layouts without what a plan leaves out: pieces that nobody needs, or that all who need them have themselves."""
    return work_of(graph, layouts, _answering(graph, layouts)).layouts


def _answering(graph: Graph, layouts: Layouts) -> dict[str, int]:
    """For each output a device that computes all of it, or else device 0."""
    return {output.tensor: _having(graph, layouts, output.tensor) for output in graph.outputs}


def _having(graph: Graph, layouts: Layouts, tensor: str) -> int:
    region = whole(graph.tensors[tensor].dims)
    maker = graph.makers.get(tensor)
    pieces = layouts[maker.name].pieces if maker is not None else ()
    return next((device for device, own in pieces if own == region), 0)


def check_floats(graph: Graph) -> None:
    """Raise :class:`PlanError` for an input or output that is no fp32 tensor of one sample."""
    for name in (*graph.inputs, *(output.tensor for output in graph.outputs)):
        tensor = graph.tensors[name]
        if not tensor.can_be_sent:
            raise PlanError(
                f"network '{graph.name}': tensor '{name}' is {tensor.dtype} {tensor.dims}; the inputs and outputs of a "
                "plan are float32 and begin with the axis of samples"
            )
