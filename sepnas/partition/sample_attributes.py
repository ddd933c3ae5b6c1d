"""What becomes of an operator's attributes when its tensors get an axis of samples in front, or have it moved there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sepnas.plan.kinds.kind import Attributes, Dims, front_axis
from sepnas.plan.kinds.pointwise import Pointwise
from sepnas.plan.kinds.registry import GRAPH_OPERATORS

Shifted: TypeAlias = Callable[[Attributes, Dims], dict[str, Any]]
"""The attributes for tensors with one axis more in front, given those of the old output's sizes."""
Moved: TypeAlias = Callable[[Attributes, int, int], tuple[dict[str, Any], int]]
"""The attributes for tensors of so many axes whose axis of samples has moved from a place to the front, and the place
that it has in the old output. :class:`ValueError` if the operator needs the axis where it was."""

BROADCAST = frozenset(name for name, kind in GRAPH_OPERATORS.items() if isinstance(kind, Pointwise))
JOINED = frozenset(("cat",))
"""Operators whose operands are sizes of one tensor, so that each has its axis of samples."""


def _same(attributes: Attributes, made: Dims) -> dict[str, Any]:
    return dict(attributes)


def _with_axis(*names: str, needed: bool = True) -> Shifted:
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


_ALONG = ("softmax", "softmax_core", "log_softmax", "cumsum", "glu")
_REDUCING = ("mean", "sum", "amax", "amin", "logsumexp", "var", "std", "vector_norm")
SHIFTED: dict[str, Shifted] = {
    **dict.fromkeys(BROADCAST, _same),
    **dict.fromkeys(("linear", "layer_norm", "rms_norm", "matmul", "bmm", "attention", "pad"), _same),
    **dict.fromkeys((*_ALONG, *_REDUCING, "select", "slice"), _with_axis("dim")),
    **dict.fromkeys(("cat", "stack"), _with_axis("dim", needed=False)),
    **dict.fromkeys(("roll", "flip"), _with_axis("dims")),
    "permute": _permuted,
    "expand": _sized,
    "repeat": _repeated,
}
"""The operators that take an axis more in front."""
LIFTED_NAMES: dict[str, tuple[str, dict[str, str]]] = {"bmm": ("matmul", {"mat2": "other"})}
"""Operators for a fixed number of axes: the general one, and its names of operands."""


def in_front(axis: int, place: int) -> int:
    """Where an axis is after the one at a place has been put in front."""
    return axis + 1 if axis < place else axis


def _unless_last(count: Callable[[Attributes], int]) -> Moved:
    """An operator on the last axes, so many of them, that leaves the others as they are."""

    def moved(attributes: Attributes, rank: int, place: int) -> tuple[dict[str, Any], int]:
        if place >= rank - count(attributes):
            raise ValueError("works on the axis of samples")
        return dict(attributes), place

    return moved


def _moved_along(default: int) -> Moved:
    """An operator along ``dim`` that leaves the number of axes as it is."""

    def moved(attributes: Attributes, rank: int, place: int) -> tuple[dict[str, Any], int]:
        return {**attributes, "dim": _other_axis(attributes.get("dim", default), rank, place)}, place

    return moved


def _moved_reduction(attributes: Attributes, rank: int, place: int) -> tuple[dict[str, Any], int]:
    given = attributes.get("dim")
    gone = [front_axis(axis, rank) for axis in (given if isinstance(given, list | tuple) else [given])]
    if not gone:
        raise ValueError("works on all axes")
    before = 0 if attributes.get("keepdim") else sum(axis < place for axis in gone)
    return {**attributes, "dim": [_other_axis(axis, rank, place) for axis in gone]}, place - before


def _moved_selection(attributes: Attributes, rank: int, place: int) -> tuple[dict[str, Any], int]:
    axis = front_axis(attributes["dim"], rank)
    return {**attributes, "dim": _other_axis(axis, rank, place)}, place - (axis < place)


def _moved_permutation(attributes: Attributes, rank: int, place: int) -> tuple[dict[str, Any], int]:
    order = attributes["dims"]
    return {"dims": [0, *(in_front(axis, place) for axis in order if axis != place)]}, order.index(place)


def _other_axis(axis: Any, rank: int, place: int) -> int:
    """Where an axis is then; :class:`ValueError` for the axis of samples."""
    own = front_axis(axis, rank)
    if own == place:
        raise ValueError("works on the axis of samples")
    return in_front(own, place)


MOVED: dict[str, Moved] = {
    **dict.fromkeys(BROADCAST, _unless_last(lambda attributes: 0)),
    **dict.fromkeys(("layer_norm", "rms_norm"), _unless_last(lambda attributes: len(attributes["normalized_shape"]))),
    "linear": _unless_last(lambda attributes: 1),
    **dict.fromkeys(("matmul", "attention"), _unless_last(lambda attributes: 2)),
    **dict.fromkeys(_ALONG, _moved_along(-1)),
    **dict.fromkeys((*JOINED, "slice"), _moved_along(0)),
    **dict.fromkeys(_REDUCING, _moved_reduction),
    "select": _moved_selection,
    "permute": _moved_permutation,
}
"""The operators that compute the same when the axis of samples has moved to the front."""
