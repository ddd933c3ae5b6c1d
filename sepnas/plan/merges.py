"""Merge kinds: the shapes that each kind accepts, and its arithmetic.

The merge rules of policies (:mod:`sepnas.plan.merge_rules`), ``sum`` and ``maximum`` keep the shape of ``inputs[0]``,
the device's own tensor; the others may be shorter along the merge's axis: a prefix, which affects only that part.
``convolve`` (the rule ``concat``) adds a 1x1 convolution of the others, which may have any number of channels.
``concat`` joins along the axis; ``assemble`` places pieces at offsets on any axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sepnas.errors import PlanError
from sepnas.plan.merge_rules import MERGERS_BY_KIND, MergeOperations, OwnT, PartT
from sepnas.plan.shapes import Region, Shape, cover_problem
from sepnas.plan.steps import CLIENT, Merge, Recv, Step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    _Array = npt.NDArray[np.float32]


class JoinOperations(MergeOperations[OwnT, PartT], Protocol[OwnT, PartT]):
    """The operations in which each kind is written once: in numpy here, in torch in :mod:`sepnas.nets.exchange`."""

    def greatest(self, own: OwnT, parts: Sequence[PartT]) -> OwnT:
        """The greatest of ``own`` and each part on its channels; NaN where any of them is."""
        ...

    def concat(self, own: OwnT, parts: Sequence[PartT]) -> OwnT:
        """All tensors in order along the merge's axis."""
        ...

    def assemble(self, own: OwnT, parts: Sequence[PartT], offsets: Sequence[tuple[int, ...]]) -> OwnT:
        """All tensors at their offsets in the output."""
        ...


class JoinFunction(Protocol):
    """Signature of a kind's arithmetic: ``own`` is the first input; ``weights`` are those of a learned kind."""

    def __call__(
        self,
        operations: JoinOperations[OwnT, PartT],
        step: Merge,
        own: OwnT,
        parts: Sequence[PartT],
        weights: Sequence[Any],
        /,
    ) -> OwnT: ...


@dataclass(frozen=True)
class MergeKind:
    """All facts and functions of a merge kind.

    ``problem`` says why shapes do not fit (None: they do); ``apply`` joins a batch; ``optional``: inputs after the
    first may be missing; ``learned``: there are learned numbers for each input after the first: one, or a matrix if the
    kind ``convolves``.
    """

    name: str
    problem: Callable[[Merge, Shape, Sequence[Shape]], str | None]
    apply: JoinFunction
    optional: bool = False
    learned: bool = False
    convolves: bool = False


def merge(
    step: Merge, shape: Shape, inputs: Sequence[_Array], weights: _Array | Sequence[_Array] | None = None
) -> _Array:
    """The output of a merge step, ``(B, *shape.dims)``; the inputs are not modified.

    ``weights`` are the numbers of a learned kind: one for each input after the first, or a matrix with a row for each
    channel of the output and a column for each channel of the input, of which there may be more.
    """
    kind = MERGE_KINDS[step.kind]
    if kind.learned and (weights is None or len(weights) != len(inputs) - 1):
        raise PlanError(f"merge '{step.output}' needs {len(inputs) - 1} weights named '{step.parameter}'")
    numbers: Sequence[Any] = () if weights is None else list(weights)
    out: _Array = kind.apply(_Arrays(step, shape), step, inputs[0], inputs[1:], numbers)
    return out


def optional_tensors(program: Iterable[Step]) -> frozenset[str]:
    """Received tensors that a program can do without.

    Only the merge rules of policies use them, beside a tensor of the device itself. Tensors of an exact split (sums,
    concatenations) and the client's image are always needed.
    """
    received: set[str] = set()
    needed: set[str] = set()
    for step in program:
        if isinstance(step, Recv) and step.source != CLIENT:
            received.add(step.tensor)
        optional = isinstance(step, Merge) and MERGE_KINDS[step.kind].optional
        needed.update(step.reads[:1] if optional else step.reads)
    return frozenset(received - needed)


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


def merge_weights_dims(step: Merge, shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """The sizes of the weights of a learned merge: one number, or a matrix as wide as the widest, for each message.

    The matrix of a message with fewer channels has columns that are not used.
    """
    count = len(step.inputs) - 1
    if not MERGE_KINDS[step.kind].convolves:
        return (count,)
    widest = max([shapes[name].dims[0] for name in step.inputs[1:]], default=0)
    return count, shapes[step.output].dims[0], widest


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


def _convolve_problem(step: Merge, shape: Shape, inputs: Sequence[Shape]) -> str | None:
    if not shape.axes.startswith(step.axis):
        return f"convolves along axis {step.axis}, which is not the first of '{step.output}' ({shape.axes})"
    if inputs[0] != shape or any(each.dims[1:] != shape.dims[1:] for each in inputs):
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
    regions = [placed(offset, each.dims) for offset, each in zip(step.offsets, inputs, strict=True)]
    for region in regions:
        if outside := region.outside(shape):
            return f"places a piece at {outside[0]} of '{step.output}', which has {outside[1]}"
    problem = cover_problem(shape, regions)
    return f"the pieces of '{step.output}' {problem}" if problem else None


def _sum(
    operations: JoinOperations[OwnT, PartT], step: Merge, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    return operations.add(own, parts)


def _maximum(
    operations: JoinOperations[OwnT, PartT], step: Merge, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    return operations.greatest(own, parts)


def _by_rule(
    operations: JoinOperations[OwnT, PartT], step: Merge, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    return MERGERS_BY_KIND[step.kind].merge(operations, own, parts, weights)


def _concat(
    operations: JoinOperations[OwnT, PartT], step: Merge, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    return operations.concat(own, parts)


def _assemble(
    operations: JoinOperations[OwnT, PartT], step: Merge, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    return operations.assemble(own, parts, step.offsets)


class _Arrays:
    """The operations of merges in numpy; prefixes are the first values along the merge's axis."""

    def __init__(self, step: Merge, shape: Shape) -> None:
        self._place, self._dims = axis_of(step, shape), shape.dims

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

    def convolve(self, own: _Array, parts: Sequence[_Array], weights: Sequence[Any]) -> _Array:
        import numpy as np

        out = own.copy()
        rows = out.reshape(*out.shape[:2], -1)  # a view
        for part, weight in zip(parts, weights, strict=True):
            values = part.reshape(*part.shape[:2], -1)
            rows += np.matmul(weight[:, : part.shape[1]], values)
        return out

    def greatest(self, own: _Array, parts: Sequence[_Array]) -> _Array:
        import numpy as np

        out = own.copy()
        for part in parts:
            prefix = self._prefix(part)
            out[prefix] = np.maximum(out[prefix], part)
        return out

    def concat(self, own: _Array, parts: Sequence[_Array]) -> _Array:
        import numpy as np

        return np.concatenate((own, *parts), axis=self._place)

    def assemble(self, own: _Array, parts: Sequence[_Array], offsets: Sequence[tuple[int, ...]]) -> _Array:
        import numpy as np

        out = np.empty((len(own), *self._dims), np.float32)
        for offset, piece in zip(offsets, (own, *parts), strict=True):
            out[placed(offset, piece.shape[1:]).slices] = piece
        return out


def axis_of(step: Merge, shape: Shape) -> int:
    """The axis along which a merge works, in a tensor with a leading batch axis; 0 if the kind works along none."""
    return 1 + shape.axes.find(step.axis)


def placed(offset: Sequence[int], dims: Sequence[int]) -> Region:
    """The region of a piece of these sizes at an offset."""
    return Region(tuple([(start, start + size) for start, size in zip(offset, dims, strict=True)]))


MERGE_KINDS: dict[str, MergeKind] = {
    kind.name: kind
    for kind in (
        *(
            MergeKind(
                kind,
                _convolve_problem if rule.convolves else _prefix_problem,
                _by_rule,
                True,
                rule.learned,
                rule.convolves,
            )
            for kind, rule in MERGERS_BY_KIND.items()
        ),
        MergeKind("sum", _prefix_problem, _sum),
        MergeKind("maximum", _prefix_problem, _maximum),
        MergeKind("concat", _concat_problem, _concat),
        MergeKind("assemble", _assemble_problem, _assemble),
    )
}
"""Every merge kind by name."""
