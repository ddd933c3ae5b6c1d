"""Translation of ATen operators to nodes of a graph, by plain values: nothing here is torch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sepnas.partition.axes import with_spares
from sepnas.plan.kinds.kind import AtenCall, Attributes, Dims, GraphOperator, OperatorUse
from sepnas.plan.kinds.registry import BY_OVERLOAD, IDENTITIES

_NO_MATTER = frozenset(
    ("device", "pin_memory", "layout", "memory_format", "non_blocking", "copy", "implicit", "requires_grad")
)
"""Arguments about where tensors lie, which change no value."""
_COPY = "copy.default"
"""What a tensor is after another one was written into it: the other one, if it has the same sizes and type."""
_SAME_IF_SAME_SHAPE = frozenset(("reshape", "expand", "slice"))


@dataclass(frozen=True)
class AtenNode:
    """One call of the traced program: an overload, tensors by role with their sizes, and the other arguments."""

    overload: str
    operands: Mapping[str, str]
    dims: Mapping[str, Dims]
    arguments: Attributes
    outputs: tuple[Dims, ...]
    dtypes: Mapping[str, str]
    """Of the operands, by role."""
    made_dtype: str
    """Of the first output."""


@dataclass(frozen=True)
class Translated:
    """What a call is in a graph; with ``same_as`` it is no node, but another name for a tensor."""

    operator: str
    attributes: Attributes = field(default_factory=dict)
    axes: str | None = None
    same_as: str | None = None


def translate(node: AtenNode, axes: Mapping[str, str]) -> Translated:
    """The registered kind of a call, or an opaque operator if there is none that makes the traced shape."""
    arguments = {name: value for name, value in node.arguments.items() if name not in _NO_MATTER}
    first = next(iter(node.operands.values()), None)
    if node.overload in IDENTITIES and not arguments.get("train", False):
        return Translated("identity", same_as=first)
    if _copies_all(node):
        return Translated("identity", same_as=node.operands["src"])
    kind = BY_OVERLOAD.get(node.overload)
    if kind is not None:
        known = _known(kind, node, arguments)
        if known is not None:
            if _changes_nothing(kind, node, known):
                return Translated("identity", same_as=first)
            use = OperatorUse(known, node.dims)
            names = kind.axes(use, {role: axes[tensor] for role, tensor in node.operands.items()})
            return Translated(kind.name, known, with_spares(names))
    return Translated(f"aten.{node.overload}", arguments)


def _copies_all(node: AtenNode) -> bool:
    """Whether a call gives its operand ``src`` as it is."""
    is_whole = node.overload == _COPY and node.dims["src"] == node.outputs[0]
    return is_whole and node.dtypes["src"] == node.made_dtype


def _known(kind: GraphOperator, node: AtenNode, arguments: Attributes) -> Attributes | None:
    """The attributes of a kind; None if the kind does not make what was traced."""
    try:
        found = kind.normalise(node.overload, OperatorUse(arguments, node.dims))
        fits = kind.output(OperatorUse(found, node.dims)) == node.outputs[0]
    except (ValueError, TypeError, IndexError, StopIteration, ArithmeticError):
        return None
    return found if fits else None


def _changes_nothing(kind: GraphOperator, node: AtenNode, attributes: Attributes) -> bool:
    first = next(iter(node.dims.values()))
    if kind.name == "cast":
        return next(iter(node.dtypes.values())) == node.made_dtype
    if kind.name == "permute":
        return list(attributes["dims"]) == sorted(attributes["dims"])
    if kind.name == "pad":
        return not any(attributes["pad"])
    return kind.name in _SAME_IF_SAME_SHAPE and first == node.outputs[0]


def opaque_call(operator: str, inputs: Mapping[str, str], attributes: Attributes) -> AtenCall:
    """The torch implementation of an opaque operator: itself, on its operands; lists of tensors are put together."""
    operands: dict[str, Any] = {}
    for role in inputs:
        name, _, place = role.partition(".")
        if place:
            listed = operands.setdefault(name, [])
            listed.extend([None] * (int(place) + 1 - len(listed)))
            listed[int(place)] = role
        else:
            operands[name] = role
    joined = {name: tuple(roles) if isinstance(roles, list) else roles for name, roles in operands.items()}
    return AtenCall(operator.removeprefix("aten."), joined, attributes)
