"""Follows channels through a graph, node by node: makes its :class:`~sepnas.separation.channels.ChannelMap`."""

from __future__ import annotations

import numpy as np

from sepnas.partition.graph import Graph, GraphNode
from sepnas.plan.kinds.layout import Permute, Reshape
from sepnas.plan.kinds.pieces import Concatenation, StridedSlice
from sepnas.separation.atoms import EVERYWHERE, READ_OUT, Atoms, Labels
from sepnas.separation.channels import ChannelMap, Channels, Folded, HowComputed
from sepnas.separation.folding import moved
from sepnas.separation.relations import MixingLayer, Relation, mixing_layer, relation


def channels_of(graph: Graph) -> ChannelMap:
    """Follow all channels of a graph.

    What is answered without being mixed again lies on the read-out device, such as class scores.
    """
    follower = _Follower(graph)
    for node in graph.nodes:
        for name in node.outputs:
            follower.tensors[name] = follower.node(node)
    follower.pin_answers()
    return follower.map()


def _const(label: int) -> Channels:
    return Channels(None, np.array([label], dtype=np.int64))


class _Follower:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.atoms = graph, Atoms()
        self.tensors: dict[str, Channels | Folded] = {name: _const(EVERYWHERE) for name in graph.inputs}
        self.ways: dict[str, HowComputed] = {}
        self.mixing: dict[str, MixingLayer] = {}
        self.relations: dict[str, Relation] = {}
        self.views: dict[str, tuple[str, Labels]] = {}
        self.shared: list[tuple[str, str]] = []

    def node(self, node: GraphNode) -> Channels | Folded:
        """The channels of what a node makes."""
        data = {role: self.tensors[name] for role, name in node.inputs.items() if name not in self.graph.stored}
        layer = mixing_layer(self.graph, node)
        if layer is not None and isinstance(data[layer.operand_role], Channels):
            return self._mixed(node, layer, data)
        if any(isinstance(each, Folded) for each in data.values()):
            return self._of_folded(node, data)
        plain = {role: each for role, each in data.items() if isinstance(each, Channels)}
        if all(each.axis is None for each in plain.values()):
            return self._of_one_owner(node, plain)
        return self._of_channels(node, plain) or self._whole(node)

    def _mixed(self, node: GraphNode, layer: MixingLayer, data: dict[str, Channels | Folded]) -> Channels | Folded:
        operand = data[layer.operand_role]
        if isinstance(operand, Channels) and operand.axis not in (None, layer.in_axis):
            return self._of_channels(node, {layer.operand_role: operand}) or self._whole(node)
        self.ways[node.name], self.mixing[node.name] = HowComputed.MIXING, layer
        made = layer.relation
        return Channels(made.axis, self.atoms.new(made.count))

    def _whole(self, node: GraphNode) -> Channels:
        self.ways[node.name] = HowComputed.READ_OUT
        return _const(READ_OUT)

    def _of_one_owner(self, node: GraphNode, data: dict[str, Channels]) -> Channels:
        """Of operands that each device has, or one device has alone."""
        label = self.atoms.unite(int(each.labels[0]) for each in data.values())
        self.ways[node.name] = HowComputed.EVERYWHERE if label == EVERYWHERE else HowComputed.OWNER
        return _const(label)

    def _of_folded(self, node: GraphNode, data: dict[str, Channels | Folded]) -> Channels | Folded:
        [folded] = list(data.values()) if len(data) == 1 else [None]
        ids = moved(self.graph, node, folded.ids) if isinstance(folded, Folded) else None
        if not isinstance(folded, Folded) or ids is None:
            return self._whole(node)
        base = self.tensors[folded.base]
        assert isinstance(base, Channels)
        assert base.axis is not None
        axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if len(axes) != 1:
            self.ways[node.name] = HowComputed.FOLDED
            return Folded(folded.base, ids)
        [axis], before = axes, self.graph.tensors[folded.base].dims
        dims = self.graph.tensors[node.outputs[0]].dims
        if axis != base.axis or _without(dims, axis) != _without(before, axis):
            return self._whole(node)
        self.ways[node.name], self.views[node.name] = HowComputed.VIEW, (folded.base, ids.reshape(-1))
        return Channels(axis, base.labels[ids.reshape(-1)])

    def _of_channels(self, node: GraphNode, data: dict[str, Channels]) -> Channels | Folded | None:
        """Of operands of which at least one has channels; None if its channels cannot be told apart."""
        if node.kind is None or len(node.outputs) > 1:
            return None
        first = next(role for role, each in data.items() if each.axis is not None)
        axis = data[first].axis
        assert axis is not None
        if isinstance(node.kind, Reshape | Permute):
            ids = moved(self.graph, node, _ids(self.graph.tensors[node.inputs[first]].dims, axis))
            if ids is not None and sum(size > 1 for size in ids.shape) > 1:
                self.ways[node.name] = HowComputed.FOLDED
                return Folded(node.inputs[first], ids)
        if isinstance(node.kind, Concatenation) and self._cut_axis(node) == axis:
            return self._joined(node, data, axis)
        if isinstance(node.kind, StridedSlice) and self._cut_axis(node) == axis:
            use = self.graph.use(node)
            self.ways[node.name] = HowComputed.SLICED
            labels = data[first].labels[use.get("start", 0) : use.get("end") : use.get("step", 1)]
            return Channels(axis, labels) if len(labels) > 1 else _const(int(labels[0]))
        for each in sorted(self.graph.cuts_of(node)):
            made = relation(self.graph, node, each) if each else None
            if made is not None and _fits(made, data):
                return self._related(node, made, data)
        return None

    def _cut_axis(self, node: GraphNode) -> int:
        rank = len(self.graph.tensors[node.outputs[0]].dims)
        return self.graph.use(node).axis("dim", rank)

    def _joined(self, node: GraphNode, data: dict[str, Channels], axis: int) -> Channels:
        found = []
        for role, name in node.inputs.items():
            each = data.get(role, _const(EVERYWHERE))  # a weight
            size = self.graph.tensors[name].dims[axis]
            found.append(each.labels if each.axis is not None else np.repeat(each.labels, size))
        self.ways[node.name] = HowComputed.JOINED
        return Channels(axis, np.concatenate(found))

    def _related(self, node: GraphNode, made: Relation, data: dict[str, Channels]) -> Channels:
        """Unite the channels of each block."""
        tied: list[list[int]] = [[] for _ in range(made.count)]
        for role, each in data.items():
            blocks = made.operands.get(role)
            if blocks is None:
                self.shared.append((node.name, role))
                continue
            for block, atoms in enumerate(tied):
                atoms.extend(each.labels[blocks.channels(block)] if each.axis is not None else each.labels)
        self.ways[node.name], self.relations[node.name] = HowComputed.CHANNELS, made
        return Channels(made.axis, np.repeat([self.atoms.unite(atoms) for atoms in tied], made.width))

    def pin_answers(self) -> None:
        """Tie channels that are answered, and that no layer mixes again, to the read-out device."""
        mixed = {self.atoms.root(int(label)) for layer in self.mixing.values() for label in self._labels(layer.operand)}
        for output in self.graph.outputs:
            labels = self.atoms.resolved(self._labels(output.tensor))
            if mixed.isdisjoint(labels.tolist()):
                self.atoms.unite((READ_OUT, *labels.tolist()))

    def _labels(self, tensor: str) -> Labels:
        found = self.tensors[tensor]
        return self._labels(found.base) if isinstance(found, Folded) else found.labels

    def map(self) -> ChannelMap:
        tensors = {
            name: each if isinstance(each, Folded) else Channels(each.axis, self.atoms.resolved(each.labels))
            for name, each in self.tensors.items()
        }
        return ChannelMap(
            self.graph, tensors, self.ways, self.mixing, self.relations, self.views, tuple(self.shared),
            self.atoms.count,
        )  # fmt: skip


def _fits(made: Relation, data: dict[str, Channels]) -> bool:
    """Whether blocks of the output are blocks of the operands' channels; an operand may be taken whole, but not all."""
    varying = {role: each for role, each in data.items() if each.axis is not None}
    related = [role for role in varying if role in made.operands]
    return bool(related) and all(made.operands[role].axis == varying[role].axis for role in related)


def _ids(dims: tuple[int, ...], axis: int) -> np.ndarray:
    """The number of each channel, along the axis of channels."""
    return np.arange(dims[axis]).reshape([-1 if each == axis else 1 for each in range(len(dims))])


def _without(dims: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*dims[:axis], *dims[axis + 1 :])
