"""How operators that were traced for one sample compute several.

A tensor of a batch of B holds those of its samples one after the other along the first axis: ``(B x n, ...)`` where one
sample has ``(n, ...)``; one number of each sample is ``(B,)``. Most operators treat each place of the first axis by
itself, and compute a batch as they compute one sample: convolutions on windows that lie along it, too. Others get the
samples apart, along an axis more in front. Those that cannot compute one sample after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sepnas.partition.sample_attributes import BROADCAST, LIFTED_NAMES, SHIFTED
from sepnas.plan.kinds.kind import AtenCall, Attributes, Dims, GraphOperator, OperatorUse, Restriction, along, whole
from sepnas.plan.kinds.layout import Expand, Reshape
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.segment_node import frozen
from sepnas.plan.shapes import Region

JOINING = frozenset(("cat", "stack"))
"""Operators that do not broadcast: a weight beside tensors is repeated for each sample, such as a class token."""
_PADDED = BROADCAST | {"expand", "repeat"}
"""Operators that count the axes of their operands from the end."""
_SIZES = {"reshape.default": "shape", "expand.default": "size"}
"""The calls that are given the sizes of their result, and the argument that has them."""
_SAMPLES = 3
"""A batch in which an operator is tried: it has a sample with others on both sides."""
_CANNOT = (ValueError, TypeError, IndexError, KeyError, ArithmeticError)


@dataclass(frozen=True)
class BatchUse:
    """The calls by which an operator computes a batch.

    ``views`` has the sizes that its operands have for one sample, by role, if these are to lie apart behind an axis of
    samples; None if the operator takes them one after the other, as they are. Weights are not in it.
    """

    calls: tuple[AtenCall, ...]
    views: Mapping[str, Dims] | None = None


def batch_use(operator: str, use: OperatorUse, shared: Collection[str]) -> BatchUse | None:
    """How an operator computes any number of samples at once; None if it computes one after the other.

    ``shared`` are the roles of operands that all samples have in common: weights.
    """
    attributes = tuple((name, frozen(value)) for name, value in use.attributes.items())
    return _remembered(operator, attributes, tuple(use.inputs.items()), frozenset(shared), repr(attributes))


@lru_cache(maxsize=1 << 14)
def _remembered(
    operator: str,
    attributes: tuple[tuple[str, Any], ...],
    sizes: tuple[tuple[str, Dims], ...],
    shared: Collection[str],
    written: str,
) -> BatchUse | None:
    """Plans use the same operators again and again; ``written`` tells attributes apart that are equal, as 1 and 1.0."""
    kind, use = GRAPH_OPERATORS.get(operator), OperatorUse(dict(attributes), dict(sizes))
    if kind is None:
        return None
    shared = () if operator in JOINING else shared
    if isinstance(kind, Reshape) or _takes_places(kind, use, shared):
        return BatchUse(tuple(map(_for_any_batch, kind.calls(use))))
    return _lifted(operator, use, shared)


def _lifted(operator: str, use: OperatorUse, shared: Collection[str]) -> BatchUse | None:
    """The operator on tensors with an axis of samples more in front."""
    shifted, made = SHIFTED.get(operator), GRAPH_OPERATORS[operator].output(use)
    name, renamed = LIFTED_NAMES.get(operator, (operator, {}))
    kind = GRAPH_OPERATORS[name]
    views = {role: _padded(operator, dims, made) for role, dims in use.inputs.items() if role not in shared}
    try:
        if shifted is None:
            return None
        sizes = {renamed.get(r, r): (1, *views[r]) if r in views else dims for r, dims in use.inputs.items()}
        lifted = OperatorUse(shifted(use.attributes, made), sizes)
        if kind.output(lifted) != (1, *made) or not _takes_places(kind, lifted, {renamed.get(r, r) for r in shared}):
            return None
    except _CANNOT:
        return None
    back = {new: old for old, new in renamed.items()}
    return BatchUse(tuple(_for_any_batch(_renamed(call, back)) for call in kind.calls(lifted)), views)


def _padded(operator: str, dims: Dims, made: Dims) -> Dims:
    return (*(1,) * (len(made) - len(dims)), *dims) if operator in _PADDED else dims


def _takes_places(kind: GraphOperator, use: OperatorUse, shared: Collection[str]) -> bool:
    """Whether an operator computes samples along the first axis as it computes one, by its own halo rule."""
    try:
        made, sizes = kind.output(use), [dims for role, dims in use.inputs.items() if role not in shared]
        if not made or not sizes or any(dims[:1] != made[:1] for dims in sizes):
            return False
        larger = OperatorUse(
            _attributes_of(kind, use, _SAMPLES),
            {r: dims if r in shared else (_SAMPLES * dims[0], *dims[1:]) for r, dims in use.inputs.items()},
        )
        if kind.output(larger) != (_SAMPLES * made[0], *made[1:]) or kind.cuts(larger).get(0) != 1:
            return False
        if list(map(_for_any_batch, kind.calls(larger))) != list(map(_for_any_batch, kind.calls(use))):
            return False
        alone = kind.restrict(use, whole(made))
        return all(_is_alone(kind, use, alone, larger, shared, sample) for sample in range(_SAMPLES))
    except _CANNOT:
        return False


def _is_alone(
    kind: GraphOperator,
    use: OperatorUse,
    alone: Restriction,
    larger: OperatorUse,
    shared: Collection[str],
    sample: int,
) -> bool:
    """Whether one sample of a batch is computed of its own values only, and as it is ``alone``."""
    dims = kind.output(larger)
    places = dims[0] // _SAMPLES
    found = kind.restrict(larger, along(dims, 0, (sample * places, (sample + 1) * places)))
    wanted = {
        role: region if role in shared else _moved(region, sample * use[role][0])
        for role, region in alone.inputs.items()
    }
    return dict(found.inputs) == wanted and found.attributes == alone.attributes and found.crop == alone.crop


def _moved(region: Region, places: int) -> Region:
    (start, stop), *others = region.ranges
    return Region(((start + places, stop + places), *others))


def _attributes_of(kind: GraphOperator, use: OperatorUse, samples: int) -> Attributes:
    if not isinstance(kind, Expand):
        return use.attributes
    first, *others = use.get("size")
    return {**use.attributes, "size": [samples * first, *others]}


def _for_any_batch(call: AtenCall) -> AtenCall:
    """A call that is given sizes, with those for one sample replaced by those for any number of them."""
    name = _SIZES.get(call.overload)
    return call if name is None else replace(call, arguments={**call.arguments, name: [-1, *call.arguments[name][1:]]})


def _renamed(call: AtenCall, names: Mapping[str, str]) -> AtenCall:
    """A call that takes operands by other roles."""
    found = {
        argument: names.get(roles, roles) if isinstance(roles, str) else roles
        for argument, roles in call.operands.items()
    }
    return replace(call, operands=found)
