"""Gives each tensor of a graph an axis of samples where the network has put samples and windows into one.

Transformers with windows compute on tensors such as ``(samples x windows, tokens, channels)``. Devices cannot exchange
parts of these for any number of samples, so each gets a leading axis of size 1: the same values, in the same order.
Operators that know their axes from the end stay as they are; others count one axis more. Where a network has put the
axis of samples behind others, as for the queries, keys and values of attention, it is put in front again. Before an
operator for which none of this holds, the tensor gets its old sizes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

from sepnas.partition.axes import with_spares
from sepnas.partition.graph import GraphNode, GraphTensor
from sepnas.partition.sample_attributes import BROADCAST, JOINED, LIFTED_NAMES, MOVED, SHIFTED, in_front
from sepnas.plan.kinds.kind import Attributes, Dims, OperatorUse
from sepnas.plan.kinds.layout import Permute, Reshape
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.segment_node import frozen

_CANNOT = (ValueError, TypeError, IndexError, KeyError)
_Value = TypeVar("_Value")


class SampleAxes:
    """Rewrites nodes in the order of computation. ``tensors`` are changed in place."""

    def __init__(self, tensors: dict[str, GraphTensor], stored: Collection[str]) -> None:
        self.tensors, self.stored = tensors, stored
        self.nodes: list[GraphNode] = []
        self._old: dict[str, GraphTensor] = {}
        """The old shapes of the tensors that have an axis more."""
        self._reshaped: dict[tuple[str, Dims], str] = {}
        self._moved: dict[str, int] = {}
        """The place at which the axis of samples was, for tensors in which it is in front now."""

    def add(self, node: GraphNode) -> None:
        """Append a node, or what computes the same with an axis of samples."""
        [*names] = node.outputs
        rewritten = self._rewritten(node, names[0]) if len(names) == 1 and node.kind is not None else None
        if rewritten is not None:
            self.nodes.append(rewritten)
            return
        self.nodes.append(node.model_copy(update={"inputs": {r: self._restored(n) for r, n in node.inputs.items()}}))

    def _restored(self, name: str) -> str:
        """A tensor with its old sizes."""
        if name in self._moved:
            return self._moved_back(name)
        return self._as(name, self._old[name].dims) if name in self._old else name

    def finish(self, outputs: Iterable[str]) -> dict[str, str]:
        """The names of the outputs, with their old sizes, where they have others."""
        return {name: self._restored(name) for name in outputs if name in self._old or name in self._moved}

    def _rewritten(self, node: GraphNode, made: str) -> GraphNode | None:
        """The node on tensors with samples in front; None if it stays, or cannot have them."""
        if any(name in self._moved for name in node.inputs.values()):
            return self._reshaped_moved(node, made) if isinstance(node.kind, Reshape) else self._turned(node, made)
        if isinstance(node.kind, Permute) and all(map(self._begins_with_samples, node.inputs.values())):
            return self._turned(node, made)
        lifted = [name for name in node.inputs.values() if name in self._old]
        if isinstance(node.kind, Reshape):
            return self._regrouped(node, made) if lifted or self._joins_samples(node, made) else None
        return self._lifted(node, made) if lifted else None

    def _lifted(self, node: GraphNode, made: str) -> GraphNode | None:
        """The node on tensors with an axis more."""
        dims, shifted = self.tensors[made].dims, SHIFTED.get(node.operator)
        operator, renamed = LIFTED_NAMES.get(node.operator, (node.operator, {}))
        try:
            if shifted is None:
                return None
            attributes = shifted(node.attributes, dims)
            operands = {renamed.get(role, role): self._with_axis(name) for role, name in node.inputs.items()}
            self._check(operator, attributes, operands, (1, *dims))
        except _CANNOT:
            return None
        found = _changed(node, attributes, operands, operator)
        if dims[:1] == (1,):
            return self._dropped(found, made)
        self._lift(made)
        return found

    def _check(self, operator: str, attributes: Attributes, operands: Mapping[str, str], wanted: Dims) -> None:
        sizes = {role: self.tensors[name].dims for role, name in operands.items()}
        if GRAPH_OPERATORS[operator].output(OperatorUse(attributes, sizes)) != wanted:
            raise ValueError("makes another shape")

    def _dropped(self, found: GraphNode, made: str) -> GraphNode:
        """What makes a tensor that begins with an axis of size 1, which is left as the axis of samples."""
        plain, inner = self.tensors[made], self._new_name(f"{made}_samples")
        self.tensors[inner] = plain
        self._lift(inner)
        del self._old[inner]
        self.nodes.append(found.model_copy(update={"name": inner, "outputs": (inner,)}))
        return _changed(found, {"size": plain.dims}, {"self": inner}, "reshape")

    def _turned(self, node: GraphNode, made: str) -> GraphNode | None:
        """A permutation that moves the axis of samples, or an operator on what one made, with that axis in front."""
        first = next((name for name in node.inputs.values() if name in self._moved), next(iter(node.inputs.values())))
        place, rank, moved = self._moved.get(first, 0), len(self.tensors[first].dims), MOVED.get(node.operator)
        dims = self.tensors[made].dims
        try:
            if moved is None:
                return None
            attributes, now = moved(node.attributes, rank, place)
            operands = {role: self._operand(node.operator, n, rank, place) for role, n in node.inputs.items()}
            self._check(node.operator, attributes, operands, (dims[now], *_without(dims, now)))
        except _CANNOT:
            return None
        if now:
            self._move(made, now)
        return _changed(node, attributes, operands)

    def _operand(self, operator: str, name: str, rank: int, place: int) -> str:
        """An operand, or what has its values, for an operator whose axis of samples has moved from a place."""
        dims = self._old.get(name, self.tensors[name]).dims
        axis = place - (rank - len(dims))
        if self._moved.get(name, 0 if self._begins_with_samples(name) else None) == place and len(dims) == rank:
            return name
        is_added = operator in BROADCAST or operator in JOINED
        if name in self.stored and (not is_added or axis < 0):
            return name
        if (name not in self.stored and name not in self._old) or axis < 0 or dims[axis] != 1:
            raise ValueError(f"operand {name} has its samples elsewhere")
        wanted = (*(1,) * (len(dims) == rank), *_without(dims, axis))
        if name in self.stored and wanted == dims:
            return name
        if name in self.stored and operator in JOINED:
            raise ValueError(f"weight {name} is not repeated for each sample once it is reshaped")
        return self._as(name, wanted)

    def _reshaped_moved(self, node: GraphNode, made: str) -> GraphNode:
        """A reshape of a tensor with samples in front; where samples stay an axis, that one is in front again."""
        [source] = node.inputs.values()
        place, size = self._moved[source], self.tensors[made].dims
        before = prod(self.tensors[source].dims[1 : place + 1])
        places = [axis for axis, n in enumerate(size) if n == 1 and prod(size[:axis]) == before]
        if not places:
            self._lift(made)
        elif now := min(places, key=lambda axis: abs(axis - place)):
            self._move(made, now)
        return _changed(node, {"size": self.tensors[made].dims})

    def _begins_with_samples(self, name: str) -> bool:
        is_plain = name not in self.stored and name not in self._old and name not in self._moved
        return is_plain and self.tensors[name].can_be_sent

    def _move(self, name: str, place: int) -> None:
        old = self.tensors[name]
        dims, axes = (old.dims[place], *_without(old.dims, place)), old.axes[place] + "".join(_without(old.axes, place))
        self._moved[name] = place
        self.tensors[name] = GraphTensor(axes=axes, dims=dims, dtype=old.dtype)

    def _moved_back(self, name: str) -> str:
        place, tensor = self._moved[name], self.tensors[name]
        order = [0 if axis == place else in_front(axis, place) for axis in range(len(tensor.dims))]
        dims, axes = tuple(tensor.dims[axis] for axis in order), "".join(tensor.axes[axis] for axis in order)
        return self._added(
            name, "permute", {"dims": tuple(order)}, GraphTensor(axes=axes, dims=dims, dtype=tensor.dtype)
        )

    def _joins_samples(self, node: GraphNode, made: str) -> bool:
        [source] = node.inputs.values()
        return self._begins_with_samples(source) and self.tensors[made].dims[:1] != (1,)

    def _regrouped(self, node: GraphNode, made: str) -> GraphNode:
        dims = self.tensors[made].dims
        if dims[:1] != (1,):
            self._lift(made)
        return _changed(node, {"size": self.tensors[made].dims})

    def _lift(self, name: str) -> None:
        old = self._old[name] = self.tensors[name]
        axes = with_spares("N" + old.axes.replace("N", "?"))
        self.tensors[name] = GraphTensor(axes=axes, dims=(1, *old.dims), dtype=old.dtype)

    def _with_axis(self, name: str) -> str:
        """An operand with an axis of samples; weights are broadcast from the end, so they need none."""
        if name in self._old or name in self.stored:
            return name
        return self._as(name, (1, *self.tensors[name].dims))

    def _as(self, name: str, dims: Dims) -> str:
        """A tensor of the same values with other sizes, which a reshape makes."""
        old, source = self._old.get(name), self.tensors[name]
        if old is not None and old.dims == dims:
            axes = old.axes
        elif len(dims) == len(source.dims) + 1:
            axes = with_spares("N" + source.axes.replace("N", "?"))
        else:
            axes = with_spares("N" + "?" * (len(dims) - 1) if dims[:1] == (1,) else "?" * len(dims))
        return self._added(name, "reshape", {"size": dims}, GraphTensor(axes=axes, dims=dims, dtype=source.dtype))

    def _added(self, name: str, operator: str, attributes: dict[str, Any], tensor: GraphTensor) -> str:
        """A tensor that an operator makes of another one; made once."""
        if (name, tensor.dims) not in self._reshaped:
            made = self._new_name(f"{name}_{operator}")
            self.tensors[made] = tensor
            self.nodes.append(
                GraphNode(name=made, operator=operator, inputs={"self": name}, outputs=(made,), attributes=attributes)
            )
            self._reshaped[name, tensor.dims] = made
        return self._reshaped[name, tensor.dims]

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.tensors:
            name, number = f"{wanted}{number}", number + 1
        return name


def _changed(
    node: GraphNode, attributes: Attributes, operands: Mapping[str, str] | None = None, operator: str | None = None
) -> GraphNode:
    changes: dict[str, Any] = {"attributes": {name: frozen(value) for name, value in attributes.items()}}
    changes |= {} if operands is None else {"inputs": dict(operands)}
    return node.model_copy(update=changes | ({} if operator is None else {"operator": operator}))


def _without(values: Sequence[_Value], place: int) -> tuple[_Value, ...]:
    return (*values[:place], *values[place + 1 :])


def with_sample_axes(
    nodes: Iterable[GraphNode], tensors: Mapping[str, GraphTensor], stored: Collection[str], outputs: Iterable[str]
) -> tuple[list[GraphNode], dict[str, GraphTensor], dict[str, str]]:
    """The nodes and tensors of a graph with axes of samples, and the new names of outputs that got others."""
    axes = SampleAxes(dict(tensors), stored)
    for node in nodes:
        axes.add(node)
    renamed = axes.finish(outputs)
    return axes.nodes, axes.tensors, renamed
