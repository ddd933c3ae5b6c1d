"""The separated network: a graph in which each layer is cut into one narrower layer for each device, and its plan.

A device's layer takes the device's own channels and what it is sent, joined. The sender mixes its channels, or selects
some, so that a message has exactly what is needed. The weights of a layer are the original's, times the estimate of all
channels from those that the device has. With all mixtures sent, the network is the original one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.lowering import Wires, lower
from sepnas.partition.parts import Layouts
from sepnas.plan.kinds.kind import along, whole
from sepnas.plan.plan import Plan
from sepnas.plan.wire import WireFormat
from sepnas.separation.atoms import EVERYWHERE, TILED, Labels
from sepnas.separation.builder import SeparatedGraphBuilder
from sepnas.separation.channels import ChannelMap, Channels, HowComputed
from sepnas.separation.document import CrossingData, Separation
from sepnas.separation.follow import channels_of
from sepnas.separation.mixtures import Arrival, Estimate, known_from, rounding_of
from sepnas.separation.pieces import EstimatedBias, EstimatedInput, Message, Recipe
from sepnas.separation.relations import MixingLayer, Relation
from sepnas.separation.spaces import Placement
from sepnas.separation.statistics import Array, Statistics
from sepnas.separation.whole_maps import reading_whole_maps


@dataclass(frozen=True, eq=False)
class LocalTensor:
    """The part of a tensor that one device has: its channels of the original, in the order in which they lie."""

    name: str
    order: Labels


@dataclass(frozen=True)
class SeparatedGraph:
    """A separated network without its weights: the graph, the device of each node, and the recipe of the weights.

    ``locals`` are the parts of the original's tensors, by its names, that devices have behind tiled layers.
    """

    graph: Graph
    layouts: Layouts
    recipe: Recipe
    num_devices: int
    wires: Wires
    locals: Mapping[str, Sequence[LocalTensor]]

    def plan(self) -> Plan:
        """The plan in which each device computes its own nodes."""
        return lower(self.graph, self.layouts, self.num_devices, wires=self.wires)


def separated_graph(
    graph: Graph,
    separation: Separation,
    mixtures: Mapping[Message, Array] | None = None,
    statistics: Statistics | None = None,
    channels: ChannelMap | None = None,
) -> SeparatedGraph:
    """The separated network of a graph.

    ``mixtures`` ``(K, channels)`` are those of messages that do not hold channels; ``channels`` are those of the graph,
    if they are known already. Raises :class:`SpecError` if the separation is another network's.
    """
    found = channels or channels_of(graph)
    placement = separation.placement(found)
    return _Separating(found, placement, separation, mixtures or {}, statistics or Statistics()).network()


def map_parts(graph: Graph, separation: Separation) -> dict[str, list[LocalTensor]]:
    """The parts of an imported network's feature maps ``(N, C, ...)`` that devices have, by the document alone.

    Mixtures of any values give the graph of the same names. Raises :class:`SpecError` if the separation is another
    network's.
    """
    channels = channels_of(reading_whole_maps(graph, separation.num_devices))
    mixtures = {
        (each.tensor, each.source, each.destination): np.eye(each.mixtures, len(each.channels))
        for each in separation.crossings if each.mixtures
    }  # fmt: skip
    made = separated_graph(channels.graph, separation, mixtures, channels=channels)
    return {
        name: [each for each in parts if each.name in made.graph.tensors]
        for name, parts in made.locals.items()
        if name in graph.tensors and graph.tensors[name].axes.startswith("NC") and channels.axis(name) == 1
    }


@dataclass(frozen=True, eq=False)
class _Input:
    """What the layers of a device read of a tensor: the channels ``order``, or what all are estimated from."""

    name: str
    order: Labels
    estimate: Estimate | None


class _Separating:
    def __init__(
        self,
        channels: ChannelMap,
        placement: Placement,
        separation: Separation,
        mixtures: Mapping[Message, Array],
        statistics: Statistics,
    ) -> None:
        self.channels, self.placement, self.separation, self.statistics = channels, placement, separation, statistics
        self.graph, self.made = channels.graph, SeparatedGraphBuilder(channels.graph)
        self.ranks = range(separation.num_devices)
        self.locals: dict[tuple[str, int], LocalTensor] = {}
        self.folded: dict[tuple[str, int], str] = {}
        self.inputs: dict[tuple[str, int], _Input] = {}
        self.arriving: dict[tuple[str, int], list[tuple[int | None, WireFormat, Arrival]]] = {}
        self.tiled: dict[str, str] = {}
        self.wires: dict[tuple[str, int], WireFormat] = {}
        for each in sorted(separation.crossings, key=lambda each: each.source or 0):
            found = self.arriving.setdefault((each.tensor, each.destination), [])
            mixed = mixtures.get((each.tensor, each.source, each.destination))
            found.append((each.source, each.wire, self._arrival(each, mixed)))

    def _arrival(self, crossing: CrossingData, mixtures: Array | None) -> Arrival:
        """What a message brings; mixtures are centred where that is possible."""
        labels, tensor, offset = np.array(crossing.channels), crossing.tensor, None
        if mixtures is None:
            return Arrival(labels)
        if self.channels.may_be_centred(tensor):
            mean = self.statistics.of(tensor, len(self.channels.labels(tensor))).mean
            offset = -mixtures @ mean[labels]
        return Arrival(labels, mixtures, offset, rounding_of(crossing.wire))

    def network(self) -> SeparatedGraph:
        for name in self.graph.inputs:
            for rank in self.ranks:
                self.locals[name, rank] = LocalTensor(name, self._everything(name))
        tiles = self.placement.tiles
        for node in self.graph.nodes:
            if tiles is not None and node.name in tiles.nodes:
                self._in_tiles(node)
                continue
            for rank in self.placement.computing(node.outputs[0]):
                self._node(node, rank)
        answers = {o.name: self._whole(o.tensor, self.placement.read_out) for o in self.graph.outputs}
        graph, made = self.made.graph(answers), self.made
        return SeparatedGraph(
            graph,
            made.layouts(graph, tiles.shares if tiles else ()),
            made.recipe_of(graph),
            self.separation.num_devices,
            self.wires,
            self._by_tensor(),
        )

    def _by_tensor(self) -> dict[str, list[LocalTensor]]:
        found: dict[str, list[LocalTensor]] = {}
        for (tensor, _), local in self.locals.items():
            found.setdefault(tensor, []).append(local)
        return found

    def _in_tiles(self, node: GraphNode) -> None:
        """A node in tiles: the original's."""
        inputs = {
            role: self.made.weight(name, {}, TILED) if name in self.graph.stored else self.tiled.get(name, name)
            for role, name in node.inputs.items()
        }
        self.tiled |= zip(node.outputs, self.made.copy(node, TILED, inputs), strict=True)

    def _sender(self, tensor: str, source: int | None) -> tuple[LocalTensor, int]:
        """What a device has of a tensor, or all devices in tiles; and where it is."""
        if source is None:
            return LocalTensor(self.tiled[tensor], self._everything(tensor)), TILED
        return self.locals[tensor, source], source

    def _node(self, node: GraphNode, rank: int) -> None:
        way = self.channels.ways[node.name]
        if way in (HowComputed.EVERYWHERE, HowComputed.OWNER, HowComputed.READ_OUT):
            made = self.made.copy(node, rank, {r: self._operand(n, rank) for r, n in node.inputs.items()})
            for name, own in zip(node.outputs, made, strict=True):
                self.locals[name, rank] = LocalTensor(own, self._everything(name))
        elif way is not HowComputed.FOLDED:
            make = {
                HowComputed.MIXING: self._mixed,
                HowComputed.CHANNELS: self._by_channels,
                HowComputed.JOINED: self._joined,
                HowComputed.SLICED: self._sliced,
                HowComputed.VIEW: self._viewed,
            }[way]
            found = make(node, rank)
            if found is not None:
                self.locals[node.outputs[0], rank] = found

    def _everything(self, tensor: str) -> Labels:
        dims = self.graph.tensors[tensor].dims
        return np.arange(dims[self.channels.axis(tensor)] if dims else 1)

    def _operand(self, tensor: str, rank: int) -> str:
        """All of an operand on a device; a weight as it is."""
        return self.made.weight(tensor, {}, rank) if tensor in self.graph.stored else self._whole(tensor, rank)

    def _whole(self, tensor: str, rank: int) -> str:
        """All channels of a tensor on a device, in their order."""
        if not isinstance(self.channels.tensors[tensor], Channels):  # in the middle of a reordering
            if (tensor, rank) not in self.folded:
                node = self.graph.makers[tensor]
                inputs = {role: self._operand(name, rank) for role, name in node.inputs.items()}
                self.folded[tensor, rank] = self.made.copy(node, rank, inputs)[0]
            return self.folded[tensor, rank]
        found = self._input(tensor, rank)
        assert found.estimate is None, tensor
        return self._ordered(tensor, LocalTensor(found.name, found.order), self._everything(tensor), rank)

    def _ordered(self, tensor: str, local: LocalTensor, wanted: Labels, rank: int, axis: int | None = None) -> str:
        """These channels of what a device has of a tensor, in this order."""
        where = np.full(max(int(local.order.max(initial=0)), int(wanted.max(initial=0))) + 1, -1)
        where[local.order] = np.arange(len(local.order))
        return self.made.select(local.name, self.channels.axis(tensor) if axis is None else axis, where[wanted], rank)

    def _input_name(self, tensor: str, rank: int) -> tuple[str, list[Arrival]]:
        """What a device has and is sent of a tensor, joined; and what it is sent."""
        own = self.locals.get((tensor, rank))
        names, arrivals = [] if own is None else [own.name], []
        for source, wire, each in self.arriving.get((tensor, rank), ()):
            (local, where), axis = self._sender(tensor, source), self.channels.axis(tensor)
            if each.mixtures is None:
                names.append(self._ordered(tensor, local, each.channels, where))
            else:
                names.append(self.made.mix(local.name, axis, _spread(each, local.order), where, each.offset))
            self.wires[names[-1], rank] = wire
            arrivals.append(each)
        if len(names) > 1:
            return self.made.join(f"{tensor}.joined", names, self.channels.axis(tensor), rank), arrivals
        return names[0], arrivals

    def _input(self, tensor: str, rank: int) -> _Input:
        """What a device's layers read of a tensor."""
        if (tensor, rank) not in self.inputs:
            name, arrivals = self._input_name(tensor, rank)
            own = self.locals.get((tensor, rank))
            order = np.arange(0) if own is None else own.order
            plain = np.concatenate([order, *(each.channels for each in arrivals if each.mixtures is None)])
            if len(plain) == len(self._everything(tensor)):
                self.inputs[tensor, rank] = _Input(name, plain, None)
            else:
                known = known_from(self.channels, self.statistics, tensor, order)
                self.inputs[tensor, rank] = _Input(name, plain, known.estimate(arrivals))
        return self.inputs[tensor, rank]

    def _mixed(self, node: GraphNode, rank: int) -> LocalTensor:
        layer, outputs = self.channels.mixing[node.name], self.placement.own(node.outputs[0], rank)
        data = self._input(layer.operand, rank)
        inputs = {}
        for role, name in node.inputs.items():
            blocks = layer.relation.operands.get(role)
            places = {} if blocks is None else {blocks.axis: outputs}
            if name == layer.operand:
                inputs[role] = data.name
            elif role == layer.weight and data.estimate is not None:
                inputs[role] = self._estimated(layer, outputs, data.estimate, rank)
            else:
                if role == layer.weight and layer.weight_axis is not None:
                    places[layer.weight_axis] = data.order
                inputs[role] = self.made.weight(name, places, rank)
        if data.estimate is not None and data.estimate.offset.any():
            inputs["bias"] = self._shifted(layer, outputs, data.estimate, rank)
        return LocalTensor(self._smaller(node, layer.relation, inputs, len(outputs), rank), outputs)

    def _estimated(self, layer: MixingLayer, outputs: Labels, estimate: Estimate, rank: int) -> str:
        name, out_axis = layer.node.inputs[layer.weight], layer.relation.operands[layer.weight].axis
        assert layer.weight_axis is not None
        dims, tensor = {out_axis: len(outputs), layer.weight_axis: estimate.matrix.shape[1]}, self.graph.tensors[name]
        sizes = tuple(dims.get(axis, size) for axis, size in enumerate(tensor.dims))
        return self.made.new_weight(f"{name}@{rank}", tensor.axes, sizes, EstimatedInput(layer, outputs, estimate))

    def _shifted(self, layer: MixingLayer, outputs: Labels, estimate: Estimate, rank: int) -> str:
        before = layer.node.inputs.get("bias")
        name = before or f"{layer.node.name}.bias"
        made = EstimatedBias(layer, outputs, estimate, before)
        return self.made.new_weight(f"{name}@{rank}", "O", (len(outputs),), made)

    def _by_channels(self, node: GraphNode, rank: int) -> LocalTensor:
        made, order = self.channels.relations[node.name], self._blocks(node, rank)
        inputs = {}
        for role, name in node.inputs.items():
            blocks = made.operands.get(role)
            if blocks is None:
                inputs[role] = self._operand(name, rank)
                continue
            places = np.concatenate([np.array(blocks.channels(block)) for block in order])
            if name in self.graph.stored:
                inputs[role] = self.made.weight(name, {blocks.axis: places}, rank)
            else:
                local = self.locals[name, rank]
                if self._has_all(name):
                    local = LocalTensor(local.name, np.arange(self.graph.tensors[name].dims[blocks.axis]))
                inputs[role] = self._ordered(name, local, places, rank, blocks.axis)
        outputs = np.concatenate([np.arange(block * made.width, (block + 1) * made.width) for block in order])
        return LocalTensor(self._smaller(node, made, inputs, len(outputs), rank), outputs)

    def _has_all(self, tensor: str) -> bool:
        """Whether a device that has some of a tensor has all of it."""
        found = self.channels.tensors[tensor]
        return isinstance(found, Channels) and found.axis is None

    def _blocks(self, node: GraphNode, rank: int) -> list[int]:
        """The blocks of a node's channels that a device computes, in the order of its first operand's channels."""
        made = self.channels.relations[node.name]
        own = dict.fromkeys((self.placement.own(node.outputs[0], rank) // made.width).tolist())
        for role, blocks in made.operands.items():
            local = self.locals.get((node.inputs[role], rank))
            if local is not None and not self._has_all(node.inputs[role]):
                first = dict.fromkeys((local.order // blocks.step).tolist())
                return [block for block in first if block in own]
        return list(own)

    def _smaller(self, node: GraphNode, made: Relation, inputs: dict[str, str], count: int, rank: int) -> str:
        """A node with fewer channels: the attributes that depend on their number are those of its kind."""
        kind, use, dims = node.kind, self.graph.use(node), self.graph.tensors[node.outputs[0]].dims
        assert kind is not None
        everything = kind.restrict(use, whole(dims)).attributes
        fewer = kind.restrict(use, along(dims, made.axis, (0, count))).attributes
        changed = {name: value for name, value in fewer.items() if value != everything.get(name)}
        axes = self.graph.tensors[node.outputs[0]].axes
        return self.made.add(node.name, rank, node.operator, inputs, {**node.attributes, **changed}, axes)

    def _joined(self, node: GraphNode, rank: int) -> LocalTensor | None:
        axis, offset, pieces = self.channels.axis(node.outputs[0]), 0, list[LocalTensor]()
        for name in node.inputs.values():
            size = self.graph.tensors[name].dims[axis]
            if name in self.graph.stored:
                pieces.append(LocalTensor(self.made.weight(name, {}, rank), offset + np.arange(size)))
            elif (local := self.locals.get((name, rank))) is not None:
                order = np.arange(size) if self._has_all(name) else local.order
                pieces.append(LocalTensor(local.name, offset + order))
            offset += size
        if not pieces:
            return None
        names = [each.name for each in pieces]
        name = names[0] if len(names) == 1 else self.made.join(node.name, names, axis, rank)
        return LocalTensor(name, np.concatenate([each.order for each in pieces]))

    def _sliced(self, node: GraphNode, rank: int) -> LocalTensor | None:
        [tensor], use = node.inputs.values(), self.graph.use(node)
        local, size = self.locals.get((tensor, rank)), self.graph.tensors[tensor].dims[self.channels.axis(tensor)]
        taken = np.arange(size)[use.get("start", 0) : use.get("end", size) : use.get("step", 1)]
        place = np.full(size, EVERYWHERE)
        place[taken] = np.arange(len(taken))
        kept = local.order[place[local.order] >= 0] if local is not None else np.arange(0)
        if local is None or not len(kept):
            return None
        return LocalTensor(self._ordered(tensor, local, kept, rank), place[kept])

    def _viewed(self, node: GraphNode, rank: int) -> LocalTensor | None:
        base, ids = self.channels.views[node.name]
        local, places = self.locals.get((base, rank)), np.argsort(ids)
        return None if local is None else LocalTensor(local.name, places[local.order])


def _spread(arrival: Arrival, order: Labels) -> Array:
    """Mixtures of some channels as those of all channels of their device, in the order in which these lie there."""
    assert arrival.mixtures is not None
    places = np.searchsorted(arrival.channels, order)
    found = np.append(arrival.mixtures, np.zeros((len(arrival.mixtures), 1)), axis=1)
    known = arrival.channels[np.minimum(places, len(arrival.channels) - 1)] == order
    return np.asarray(found[:, np.where(known, places, len(arrival.channels))])
