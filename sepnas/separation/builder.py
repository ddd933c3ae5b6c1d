"""Puts the graph of a separated network together: nodes that each lie on one device, and the recipe of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sepnas.partition.graph import Graph, GraphNode, GraphOutput, GraphTensor
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout
from sepnas.plan.kinds.kind import Dims, OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.separation.atoms import TILED, Labels
from sepnas.separation.demands import may_be_mixed
from sepnas.separation.pieces import Ingredient, MixingWeight, Recipe, WeightPiece, runs
from sepnas.separation.statistics import Array
from sepnas.separation.tiled_layers import tile_layouts

MAX_RUNS = 3
"""A selection of more runs of channels is a product with ones and zeros; of fewer, slices that are joined."""


class SeparatedGraphBuilder:
    """The nodes, tensors and weights of a separated network; ``device_of`` is the device of each node by name."""

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.nodes: list[GraphNode] = []
        self.tensors: dict[str, GraphTensor] = {name: graph.tensors[name] for name in graph.inputs}
        self.recipe: dict[str, Ingredient] = {}
        self.device_of: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._pieces: dict[tuple[object, ...], str] = {}

    def dims(self, tensor: str) -> Dims:
        return self.tensors[tensor].dims

    def add(
        self, name: str, device: int, operator: str, inputs: Mapping[str, str], attributes: Mapping[str, Any], axes: str
    ) -> str:
        """Append a node of a registered kind on a device; the name of what it makes."""
        kind, made = GRAPH_OPERATORS[operator], self._new(_on(name, device))
        use = OperatorUse(attributes, {role: self.dims(each) for role, each in inputs.items()})
        dtype = self.tensors[next(iter(inputs.values()))].dtype
        self.tensors[made] = GraphTensor(axes=axes, dims=kind.output(use), dtype=dtype)
        self._append(made, device, operator, inputs, (made,), attributes)
        return made

    def copy(self, node: GraphNode, device: int, inputs: Mapping[str, str]) -> tuple[str, ...]:
        """Append a node of the original whole on a device; the names of what it makes."""
        made = tuple(self._new(_on(name, device)) for name in node.outputs)
        for name, original in zip(made, node.outputs, strict=True):
            self.tensors[name] = self.source.tensors[original]
        self._append(made[0], device, node.operator, inputs, made, node.attributes, node.module)
        return made

    def _append(
        self,
        name: str,
        device: int,
        operator: str,
        inputs: Mapping[str, str],
        outputs: tuple[str, ...],
        attributes: Mapping[str, Any],
        module: str = "",
    ) -> None:
        self.device_of[name] = device
        self.nodes.append(
            GraphNode(
                name=name, operator=operator, inputs=dict(inputs), outputs=outputs, attributes=dict(attributes),
                module=module,
            )
        )  # fmt: skip

    def _new(self, name: str) -> str:
        number = self._names[name] = self._names.get(name, 0) + 1
        return name if number == 1 else f"{name}~{number}"  # a plan numbers the parts of a tensor with #

    def weight(self, name: str, places: Mapping[int, Labels], device: int) -> str:
        """A piece of an original weight, under the original's name if it is all of it."""
        tensor = self.source.tensors[name]
        cut = {axis: each for axis, each in places.items() if not _is_all(each, tensor.dims[axis])}
        key = (name, *((axis, each.tobytes()) for axis, each in sorted(cut.items())))
        if key not in self._pieces:
            made = self._pieces[key] = self._new(f"{name}@{device}") if cut else name
            self.recipe[made] = WeightPiece(name, cut)
            dims = tuple(len(cut[axis]) if axis in cut else size for axis, size in enumerate(tensor.dims))
            self.tensors[made] = GraphTensor(axes=tensor.axes, dims=dims, dtype=tensor.dtype)
        return self._pieces[key]

    def select(self, tensor: str, axis: int, places: Labels, device: int) -> str:
        """Some places of a tensor along an axis, in the order given: on the device that has it."""
        if _is_all(places, self.dims(tensor)[axis]):
            return tensor
        key = ("select", tensor, axis, places.tobytes())
        if key not in self._pieces:
            self._pieces[key] = self._selected(tensor, axis, places, device)
        return self._pieces[key]

    def _selected(self, tensor: str, axis: int, places: Labels, device: int) -> str:
        found, axes, rank = runs(places), self.tensors[tensor].axes, len(self.dims(tensor))
        name = f"{tensor}.sent"
        if len(found) > MAX_RUNS and may_be_mixed(rank, axis):
            return self.mix(tensor, axis, np.eye(self.dims(tensor)[axis])[places], device)
        made = [
            self.add(name, device, "slice", {"self": tensor}, {"dim": axis, "start": a, "end": b, "step": 1}, axes)
            for a, b in found
        ]
        return made[0] if len(made) == 1 else self.join(name, made, axis, device)

    def mix(self, tensor: str, axis: int, mixtures: Array, device: int, offset: Array | None = None) -> str:
        """Mixtures ``(K, C)`` of a tensor's channels, plus ``offset`` ``(K,)``, on the device that has it."""
        dims = self.dims(tensor)
        last = axis == len(dims) - 1
        ones = () if last else (1,) * (len(dims) - 2)
        sizes = (*mixtures.shape, *ones)
        weight = self.new_weight(
            f"{tensor}.sent.weight", "OI" + "THW"[3 - len(ones) :], sizes, MixingWeight(mixtures, sizes)
        )
        inputs = {"input": tensor, "weight": weight}
        if offset is not None:
            sizes = offset.shape
            inputs["bias"] = self.new_weight(f"{tensor}.sent.bias", "O", sizes, MixingWeight(offset, sizes))
        return self.add(
            f"{tensor}.sent", device, "linear" if last else "conv", inputs, {}, self.tensors[tensor].axes
        )  # fmt: skip

    def new_weight(self, name: str, axes: str, dims: tuple[int, ...], made: Ingredient) -> str:
        """A weight that is no piece of the original's."""
        found = self._new(name)
        self.recipe[found] = made
        self.tensors[found] = GraphTensor(axes=axes, dims=dims)
        return found

    def join(self, name: str, tensors: list[str], axis: int, device: int) -> str:
        """Tensors one after the other along an axis."""
        roles = {f"tensors.{place}": each for place, each in enumerate(tensors)}
        return self.add(name, device, "cat", roles, {"dim": axis}, self.tensors[tensors[0]].axes)

    def graph(self, outputs: Mapping[str, str]) -> Graph:
        """The graph with these outputs, without nodes that nothing needs."""
        needed, kept = set(outputs.values()), list[GraphNode]()
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs.values())
                kept.append(node)
        kept.reverse()
        weights = tuple(name for name in self.recipe if name in needed)
        made = {name for node in kept for name in node.outputs}
        tensors = {name: each for name, each in self.tensors.items() if name in made or name in needed}
        source = self.source
        return Graph(
            name=source.name, source=source.source, traits=source.traits, inputs=source.inputs,
            outputs=tuple(GraphOutput(name=name, tensor=tensor) for name, tensor in outputs.items()),
            nodes=tuple(kept), weights=weights, tensors={**{n: self.tensors[n] for n in source.inputs}, **tensors},
        )  # fmt: skip

    def layouts(self, graph: Graph, shares: Sequence[float]) -> Layouts:
        """The layout of each node: whole on its device, or in tiles in proportion to ``shares``."""
        tiled = [node.name for node in graph.nodes if self.device_of[node.name] == TILED]
        found = tile_layouts(graph, tiled, shares) if tiled else {}
        return {
            node.name: found.get(node.name) or Layout.on(self.device_of[node.name], graph.tensors[node.outputs[0]].dims)
            for node in graph.nodes
        }

    def recipe_of(self, graph: Graph) -> Recipe:
        """The recipe of a graph's weights."""
        return {name: self.recipe[name] for name in graph.weights}


def _on(name: str, device: int) -> str:
    return f"{name}@{'tiles' if device == TILED else device}"


def _is_all(places: Labels, size: int) -> bool:
    return len(places) == size and bool((places == np.arange(size)).all())
