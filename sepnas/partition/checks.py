"""What makes a graph one that can be computed: names that lead somewhere, no cycle, shapes that fit the operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sepnas.plan.kinds.kind import OperatorUse, sizes_text

if TYPE_CHECKING:
    from sepnas.partition.graph import Graph, GraphNode


def check_order(graph: Graph) -> None:
    """:class:`ValueError` unless each tensor is made once, before it is used, and each name has a shape."""
    made = set(graph.inputs) | set(graph.weights)
    _check_once("input or weight", (*graph.inputs, *graph.weights))
    _check_once("node", (node.name for node in graph.nodes))
    _check_once("output", (output.name for output in graph.outputs))
    makers = {name: node for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        for role, name in node.inputs.items():
            if name not in made:
                raise ValueError(_why_missing(node, role, name, makers))
        for name in node.outputs:
            if name in made:
                raise ValueError(f"node '{node.name}' makes tensor '{name}', which is there already")
            made.add(name)
    for output in graph.outputs:
        if output.tensor not in made:
            raise ValueError(f"output '{output.name}' is tensor '{output.tensor}', which nothing makes")
    if made != graph.tensors.keys():
        name = min(made ^ graph.tensors.keys())
        raise ValueError(
            f"tensor '{name}' has a shape, but nothing makes it"
            if name in graph.tensors
            else f"tensor '{name}' has no shape in `tensors`"
        )


def _check_once(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} '{name}' is there twice")
        seen.add(name)


def _why_missing(node: GraphNode, role: str, name: str, makers: dict[str, GraphNode]) -> str:
    """Why a node cannot have an operand: nothing makes it, it comes later, or it needs the node itself."""
    start = f"node '{node.name}' takes tensor '{name}' as `{role}`, "
    if name not in makers:
        return start + "which nothing makes"
    left, seen = [makers[name]], {makers[name].name}
    while left:
        each = left.pop()
        if each.name == node.name:
            return start + "which is made from what the node itself makes: a cycle"
        for other in each.inputs.values():
            maker = makers.get(other)
            if maker is not None and maker.name not in seen:
                seen.add(maker.name)
                left.append(maker)
    return start + f"which the later node '{makers[name].name}' makes; nodes stand in the order of computation"


def check_shapes(graph: Graph) -> None:
    """:class:`ValueError` unless the output of each registered operator has the shape that its kind gives it."""
    for node in graph.nodes:
        kind = node.kind
        if kind is None:
            if not node.operator.startswith("aten."):
                raise ValueError(f"node '{node.name}' has operator '{node.operator}', which no sepnas knows")
            continue
        try:
            made = kind.output(OperatorUse(node.attributes, {r: graph.tensors[n].dims for r, n in node.inputs.items()}))
        except (ValueError, TypeError, IndexError, StopIteration, ArithmeticError) as error:
            raise ValueError(f"node '{node.name}' ({node.operator}): {error}") from None
        if len(node.outputs) != 1 or graph.tensors[node.outputs[0]].dims != made:
            stated = ", ".join(sizes_text(graph.tensors[name].dims) for name in node.outputs)
            raise ValueError(
                f"node '{node.name}' ({node.operator}) makes {sizes_text(made)}, but is said to make {stated}"
            )
