"""Gives each tensor of a graph an axis of samples where the network has put samples and windows into one.

Transformers with windows compute on tensors such as ``(samples x windows, tokens, channels)``. Devices cannot exchange
parts of these for any number of samples, so each gets a leading axis of size 1: the same values, in the same order.
Operators that know their axes from the end stay as they are; others count one axis more. Where a network has put the
axis of samples behind others, as for the queries, keys and values of attention, it is put in front again. Before an
operator for which none of this holds, the tensor gets its old sizes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from sepnas.partition.axes import with_spares
from sepnas.partition.graph import GraphNode, GraphTensor
from sepnas.plan.kinds.kind import Attributes, Dims, OperatorUse
from sepnas.plan.kinds.layout import Reshape
from sepnas.plan.kinds.pointwise import Pointwise
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.segment_node import frozen

_Shifted: TypeAlias = Callable[[Attributes, Dims], dict[str, Any]]
"""The attributes for tensors with one axis more in front, given those of the old output's sizes."""


def _same(attributes: Attributes, made: Dims) -> dict[str, Any]:
    return dict(attributes)


def _with_axis(*names: str, needed: bool = True) -> _Shifted:
    """Attributes of which these name axes; those that count from the end stay."""

    def shifted(attributes: Attributes, made: Dims) -> dict[str, Any]:
        if needed and not all(attributes.get(name) not in (None, (), []) for name in names):
            raise ValueError("works on all axes")
        return {**attributes, **{name: _shift(attributes[name]) for name in names if name in attributes}}

    return shifted


def _shift(axes: Any) -> Any:
    if isinstance(axes, list | tuple):
        return [_shift(each) for each in axes]
    return axes + 1 if axes >= 0 else axes


def _permuted(attributes: Attributes, made: Dims) -> dict[str, Any]:
    return {"dims": [0, *(axis + 1 for axis in attributes["dims"])]}


def _sized(attributes: Attributes, made: Dims) -> dict[str, Any]:
    return {"size": [1, *made]}


def _repeated(attributes: Attributes, made: Dims) -> dict[str, Any]:
    return {"repeats": [1, *attributes["repeats"]]}


_SHIFTED: dict[str, _Shifted] = {
    **{name: _same for name, kind in GRAPH_OPERATORS.items() if isinstance(kind, Pointwise)},
    **dict.fromkeys(("linear", "layer_norm", "rms_norm", "matmul", "bmm", "attention", "pad"), _same),
    **dict.fromkeys(("softmax", "softmax_core", "log_softmax", "cumsum", "glu"), _with_axis("dim")),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "logsumexp", "var", "std", "vector_norm"), _with_axis("dim")),
    **dict.fromkeys(("select", "slice"), _with_axis("dim")),
    **dict.fromkeys(("cat", "stack"), _with_axis("dim", needed=False)),
    **dict.fromkeys(("roll", "flip"), _with_axis("dims")),
    "permute": _permuted,
    "expand": _sized,
    "repeat": _repeated,
}
"""The operators that take an axis more in front."""
_OTHER_NAMES = {"bmm": ("matmul", {"mat2": "other"})}
"""Operators for a fixed number of axes: the general one, and its names of operands."""


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
        """The node on tensors with an axis more; None if it stays, or cannot have them."""
        if any(name in self._moved for name in node.inputs.values()) or node.operator == "permute":
            turned = self._turned(node, made)
            if turned is not None:
                return turned
        if any(name in self._moved for name in node.inputs.values()):
            return None
        lifted = [name for name in node.inputs.values() if name in self._old]
        dims = self.tensors[made].dims
        if isinstance(node.kind, Reshape):
            return self._regrouped(node, made) if lifted or self._joins_samples(node, dims) else None
        shifted = _SHIFTED.get(node.operator)
        if not lifted or shifted is None:
            return None
        operator, renamed = _OTHER_NAMES.get(node.operator, (node.operator, {}))
        try:
            attributes = shifted(node.attributes, dims)
            operands = {role: self._with_axis(name) for role, name in node.inputs.items()}
            operands = {renamed.get(role, role): name for role, name in operands.items()}
            sizes = {role: self.tensors[name].dims for role, name in operands.items()}
            if GRAPH_OPERATORS[operator].output(OperatorUse(attributes, sizes)) != (1, *dims):
                return None
        except (ValueError, TypeError, IndexError, KeyError):
            return None
        self._lift(made)
        plain = {name: frozen(value) for name, value in attributes.items()}
        return node.model_copy(update={"operator": operator, "inputs": operands, "attributes": plain})

    def _turned(self, node: GraphNode, made: str) -> GraphNode | None:
        """A permutation that moves the axis of samples, or an operator on what one made, with that axis in front."""
        [source, *others] = node.inputs.values()
        place = self._moved.get(source, 0)
        is_plain = source not in self._moved and (source in self._old or not self.tensors[source].can_be_sent)
        if others or is_plain or source in self.stored:
            return None
        given: Attributes = node.attributes
        if node.operator == "permute":
            order = given["dims"]
            now = order.index(place)
            attributes: dict[str, Any] = {"dims": [0, *(_in_front(axis, place) for axis in order if axis != place)]}
        elif node.operator in ("select", "slice") and given["dim"] != place:
            axis = given["dim"]
            now = place - (node.operator == "select" and axis < place)
            attributes = {**given, "dim": _in_front(axis, place)}
        else:
            return None
        if now:
            self._move(made, now)
        return node.model_copy(update={"attributes": {name: frozen(value) for name, value in attributes.items()}})

    def _move(self, name: str, place: int) -> None:
        old = self.tensors[name]
        dims = (old.dims[place], *old.dims[:place], *old.dims[place + 1 :])
        axes = old.axes[place] + old.axes[:place] + old.axes[place + 1 :]
        self._moved[name] = place
        self.tensors[name] = GraphTensor(axes=axes, dims=dims, dtype=old.dtype)

    def _moved_back(self, name: str) -> str:
        place, tensor = self._moved[name], self.tensors[name]
        order = [0 if axis == place else _in_front(axis, place) for axis in range(len(tensor.dims))]
        dims, axes = tuple(tensor.dims[axis] for axis in order), "".join(tensor.axes[axis] for axis in order)
        return self._added(
            name, "permute", {"dims": tuple(order)}, GraphTensor(axes=axes, dims=dims, dtype=tensor.dtype)
        )

    def _joins_samples(self, node: GraphNode, dims: Dims) -> bool:
        [source] = node.inputs.values()
        tensor = self.tensors[source]
        return source not in self.stored and tensor.can_be_sent and dims[:1] != (1,)

    def _regrouped(self, node: GraphNode, made: str) -> GraphNode:
        dims = self.tensors[made].dims
        if dims[:1] != (1,):
            self._lift(made)
        return node.model_copy(update={"attributes": {"size": self.tensors[made].dims}})

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
        axes = old.axes if old is not None else with_spares("N" + source.axes.replace("N", "?"))
        return self._added(name, "reshape", {"size": dims}, GraphTensor(axes=axes, dims=dims, dtype=source.dtype))

    def _added(self, name: str, operator: str, attributes: dict[str, Any], tensor: GraphTensor) -> str:
        """A tensor that an operator makes of another one; made once."""
        if (name, tensor.dims) not in self._reshaped:
            made, number = f"{name}_{operator}", 1
            while made in self.tensors:
                made, number = f"{name}_{operator}{number}", number + 1
            self.tensors[made] = tensor
            self.nodes.append(
                GraphNode(name=made, operator=operator, inputs={"self": name}, outputs=(made,), attributes=attributes)
            )
            self._reshaped[name, tensor.dims] = made
        return self._reshaped[name, tensor.dims]


def _in_front(axis: int, place: int) -> int:
    """Where an axis is after the one at a place has been put in front."""
    return axis + 1 if axis < place else axis


def with_sample_axes(
    nodes: Iterable[GraphNode], tensors: Mapping[str, GraphTensor], stored: Collection[str], outputs: Iterable[str]
) -> tuple[list[GraphNode], dict[str, GraphTensor], dict[str, str]]:
    """The nodes and tensors of a graph with axes of samples, and the new names of outputs that got others."""
    axes = SampleAxes(dict(tensors), stored)
    for node in nodes:
        axes.add(node)
    renamed = axes.finish(outputs)
    return axes.nodes, axes.tensors, renamed
