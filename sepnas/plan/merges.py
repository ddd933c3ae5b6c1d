"""Merge kinds: the shapes that each kind accepts, and its arithmetic in numpy.

The merge rules of policies (:mod:`sepnas.plan.merge_rules`) and ``sum`` keep the shape of ``inputs[0]``, the device's
own tensor; the others may be shorter along the merge's axis: a prefix, which affects only that part. ``concat`` joins
along the axis; ``assemble`` places pieces at offsets on any axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sepnas.errors import PlanError
from sepnas.plan.merge_rules import MERGERS
from sepnas.plan.shapes import Region, Shape, cover_problem
from sepnas.plan.steps import Merge

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    _Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MergeKind:
    """All facts and functions of a merge kind.

    ``problem`` says why shapes do not fit (None: they do); ``apply`` computes a batch; ``optional``: inputs after the
    first may be missing; ``learned``: there is a learned number for each input after the first.
    """

    name: str
    problem: Callable[[Merge, Shape, Sequence[Shape]], str | None]
    apply: Callable[[Merge, Shape, Sequence[_Array], _Array | None], _Array]
    optional: bool = False
    learned: bool = False


def merge(step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | None = None) -> _Array:
    """The output of a merge step, ``(B, *shape.dims)``; the inputs are not modified.

    ``weights`` are the numbers of a learned kind, one for each input after the first.
    """
    kind = MERGE_KINDS[step.kind]
    if kind.learned and (weights is None or len(weights) != len(inputs) - 1):
        raise PlanError(f"merge '{step.output}' needs {len(inputs) - 1} weights named '{step.parameter}'")
    return kind.apply(step, shape, inputs, weights)


def merge_problem(step: Merge, shape: Shape, inputs: Sequence[Shape]) -> str | None:
    """Why tensors of these shapes do not merge into one of ``shape``; None if they do."""
    kind = MERGE_KINDS.get(step.kind)
    if kind is None:
        return f"merges in an unknown way, '{step.kind}'; known: {', '.join(MERGE_KINDS)}"
    if kind.learned is not bool(step.parameter):
        return f"a {step.kind} merge has {'no' if kind.learned else 'a'} `parameter`"
    if bool(step.offsets) and step.kind != "assemble":
        return f"a {step.kind} merge has `offsets`"
    if any(each.axes != shape.axes for each in inputs):
        return f"its inputs and '{step.output}' have different axes"
    return kind.problem(step, shape, inputs)


def _shapes(shape: Shape, inputs: Sequence[Shape]) -> str:
    return f"{', '.join(map(str, inputs))} into {shape}"


def _beside(shape: Shape, place: int) -> tuple[int, ...]:
    """The sizes along all other axes."""
    return shape.dims[:place] + shape.dims[place + 1 :]


def _prefix_problem(step: Merge, shape: Shape, inputs: Sequence[Shape]) -> str | None:
    if step.axis not in shape.axes:
        return f"merges along axis {step.axis}, but '{step.output}' has {shape.axes}"
    place = shape.axes.index(step.axis)
    narrow = all(
        each.dims[place] <= shape.dims[place] and _beside(each, place) == _beside(shape, place) for each in inputs
    )
    if inputs[0] != shape or not narrow:
        return f"tensors of these shapes do not merge ({step.kind}) into '{step.output}': {_shapes(shape, inputs)}"
    return None


def _concat_problem(step: Merge, shape: Shape, inputs: Sequence[Shape]) -> str | None:
    if step.axis not in shape.axes:
        return f"merges along axis {step.axis}, but '{step.output}' has {shape.axes}"
    place = shape.axes.index(step.axis)
    same = all(_beside(each, place) == _beside(shape, place) for each in inputs)
    if sum(each.dims[place] for each in inputs) != shape.dims[place] or not same:
        return f"tensors of these shapes do not merge (concat) into '{step.output}': {_shapes(shape, inputs)}"
    return None


def _assemble_problem(step: Merge, shape: Shape, inputs: Sequence[Shape]) -> str | None:
    if len(step.offsets) != len(inputs) or any(len(offset) != len(shape.dims) for offset in step.offsets):
        return f"`offsets` must place each of {len(inputs)} inputs on {len(shape.dims)} axes"
    regions = [
        Region(tuple((start, start + size) for start, size in zip(offset, each.dims, strict=True)))
        for offset, each in zip(step.offsets, inputs, strict=True)
    ]
    for region in regions:
        if outside := region.outside(shape):
            return f"places a piece at {outside[0]} of '{step.output}', which has {outside[1]}"
    problem = cover_problem(shape, regions)
    return f"the pieces of '{step.output}' {problem}" if problem else None


class _Prefixes:
    """The operations of merge rules in numpy, on the first values along the merge's axis."""

    def __init__(self, step: Merge, shape: Shape) -> None:
        self._place = 1 + shape.axes.index(step.axis)

    def _prefix(self, part: _Array) -> tuple[slice, ...]:
        return (*[slice(None)] * self._place, slice(part.shape[self._place]))

    def add(self, own: _Array, parts: Sequence[_Array]) -> _Array:
        out = own.copy()
        for part in parts:
            out[self._prefix(part)] += part
        return out

    def minus(self, part: _Array, own: _Array) -> _Array:
        return part - own[self._prefix(part)]

    def times(self, weight: Any, part: _Array) -> _Array:
        product: _Array = weight * part
        return product

    def divide_by_counts(self, total: _Array, parts: Sequence[_Array]) -> _Array:
        import numpy as np  # late: reading a plan needs the kinds but not their arithmetic

        counts = np.ones(total.shape[self._place], np.float32)
        for part in parts:
            counts[: part.shape[self._place]] += 1
        total /= counts.reshape([-1 if axis == self._place else 1 for axis in range(total.ndim)])
        return total


def _sum(step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | None) -> _Array:
    return _Prefixes(step, shape).add(inputs[0], inputs[1:])


def _by_rule(step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | None) -> _Array:
    numbers: Sequence[Any] = () if weights is None else list(weights)
    found: _Array = MERGERS[step.kind].merge(_Prefixes(step, shape), inputs[0], inputs[1:], numbers)
    return found


def _concat(step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | None) -> _Array:
    import numpy as np

    return np.concatenate(inputs, axis=1 + shape.axes.index(step.axis))


def _assemble(step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | None) -> _Array:
    import numpy as np

    out = np.empty((len(inputs[0]), *shape.dims), np.float32)
    for offset, piece in zip(step.offsets, inputs, strict=True):
        place = tuple(slice(start, start + size) for start, size in zip(offset, piece.shape[1:], strict=True))
        out[(slice(None), *place)] = piece
    return out


MERGE_KINDS: dict[str, MergeKind] = {
    kind.name: kind
    for kind in (
        *(MergeKind(rule.name, _prefix_problem, _by_rule, True, rule.learned) for rule in MERGERS.values()),
        MergeKind("sum", _prefix_problem, _sum),
        MergeKind("concat", _concat_problem, _concat),
        MergeKind("assemble", _assemble_problem, _assemble),
    )
}
"""Every merge kind by name."""
