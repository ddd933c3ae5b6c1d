"""The layer of a graph that makes its class scores, and the graph with such a layer for other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.plan.kinds.kind import Dims

_PASSING = frozenset((
    "reshape", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d", "mean", "amax", "sum", "relu",
    "relu6", "hardtanh", "hardswish", "silu", "gelu", "log_softmax",
))  # fmt: skip
"""Operators after a head that keep each class by itself."""
_PROBABILITIES = frozenset(("softmax", "softmax_core", "sigmoid"))


@dataclass(frozen=True)
class ClassHead:
    """A linear layer or a 1x1 convolution with one output for each class; ``after`` are the nodes behind it."""

    node: GraphNode
    after: tuple[GraphNode, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The weight, and the bias if there is one."""
        return tuple(self.node.inputs[role] for role in ("weight", "bias") if role in self.node.inputs)


def num_scores(graph: Graph) -> int:
    """The number of classes that a graph has scores for; :class:`SpecError` if its output is something else."""
    outputs = {output.name: graph.tensors[output.tensor].dims for output in graph.outputs}
    [(name, dims), *others] = outputs.items()
    if others or len(dims) != 2 or dims[1] < 2:
        told = ", ".join(f"'{each}' of shape {shape}" for each, shape in outputs.items())
        raise SpecError(f"network '{graph.name}': makes no class scores (1, classes), but {told}")
    made = graph.makers.get(graph.outputs[0].tensor)
    if made is not None and made.operator in _PROBABILITIES:
        raise SpecError(
            f"network '{graph.name}': its output '{name}' are probabilities, made by {made.operator} ('{made.name}'); "
            "training needs the scores before it: import the network without its last operator"
        )
    return dims[1]


def head_of(graph: Graph) -> ClassHead:
    """The layer that makes the class scores; :class:`SpecError` if another operator makes them."""
    num_scores(graph)
    tensor, after = graph.outputs[0].tensor, list[GraphNode]()
    while (node := graph.makers.get(tensor)) is not None and node.operator in _PASSING:
        after.insert(0, node)
        tensor = next(iter(node.inputs.values()))
    if node is None or not _is_head(graph, node):
        what = "its input" if node is None else f"{node.operator} ('{node.name}')"
        raise SpecError(
            f"network '{graph.name}': its class scores are made by {what}; only a linear layer, or a 1x1 convolution, "
            "is replaced by a new head"
        )
    head = ClassHead(node, tuple(after))
    _check_alone(graph, head)
    return head


def with_new_head(graph: Graph, classes: tuple[str, ...]) -> tuple[Graph, ClassHead]:
    """The graph with scores for other classes, and its head, whose weights have new sizes but their old names.

    Raises :class:`SpecError` as :func:`head_of`.
    """
    head = head_of(graph)
    old, new = graph.tensors[head.weights[0]].dims[0], len(classes)
    dims: dict[str, Dims] = {name: (new, *graph.tensors[name].dims[1:]) for name in head.weights}
    nodes: dict[str, GraphNode] = {}
    for node in (head.node, *head.after):
        [made] = node.outputs
        attributes = _resized(graph, node, old, new)
        nodes[node.name] = node.model_copy(update={"attributes": attributes})
        channel = _class_axis(graph, made, old)
        dims[made] = tuple(new if axis == channel else size for axis, size in enumerate(graph.tensors[made].dims))
    data = graph.model_copy(
        update={
            "traits": graph.traits.model_copy(update={"classes": classes}),
            "nodes": tuple(nodes.get(node.name, node) for node in graph.nodes),
            "tensors": graph.tensors
            | {name: graph.tensors[name].model_copy(update={"dims": size}) for name, size in dims.items()},
            "computed": tuple(name for name in graph.computed if name not in head.weights),
            "buffers": None if graph.buffers is None else tuple(n for n in graph.buffers if n not in head.weights),
            "num_parameters": _parameters_with(graph, head, dims),
        }
    ).to_data()
    return Graph.from_data(data, f"network '{graph.name}' with a new head"), head


def _is_head(graph: Graph, node: GraphNode) -> bool:
    weight = node.inputs.get("weight", "")
    if weight not in graph.stored or node.operator not in ("linear", "conv"):
        return False
    return prod(graph.tensors[weight].dims[2:]) == 1 and node.attributes.get("groups", 1) == 1


def _check_alone(graph: Graph, head: ClassHead) -> None:
    """Raise :class:`SpecError` if other operators read the head's scores or weights."""
    chain = {node.name for node in (head.node, *head.after)}
    made = {*head.weights, *(name for node in (head.node, *head.after) for name in node.outputs)}
    for node in graph.nodes:
        if node.name not in chain and (shared := made & set(node.inputs.values())):
            raise SpecError(
                f"network '{graph.name}': '{min(shared)}' of its head is used by '{node.name}' too, so the head cannot "
                "be replaced"
            )


def _class_axis(graph: Graph, tensor: str, count: int) -> int:
    dims = graph.tensors[tensor].dims
    places = [axis for axis, size in enumerate(dims) if size == count and axis]
    if len(places) != 1:
        raise SpecError(f"network '{graph.name}': which axis of '{tensor}', {dims}, are the classes is not known")
    return places[0]


def _resized(graph: Graph, node: GraphNode, old: int, new: int) -> Mapping[str, Any]:
    """A node's attributes; a reshape names the sizes of its result."""
    if node.operator != "reshape":
        return node.attributes
    channel = _class_axis(graph, node.outputs[0], old)
    size = graph.tensors[node.outputs[0]].dims
    return {**node.attributes, "size": tuple(new if axis == channel else n for axis, n in enumerate(size))}


def _parameters_with(graph: Graph, head: ClassHead, dims: Mapping[str, Dims]) -> int | None:
    if graph.num_parameters is None:
        return None
    return graph.num_parameters + sum(prod(dims[n]) - prod(graph.tensors[n].dims) for n in head.weights)
