"""Operators that only say differently where values lie: reshape, permute, expand. They have no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sepnas.plan.kinds.kind import (
    AtenCall,
    Attributes,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    broadcast_region,
    exactly,
    front_axis,
    sizes_text,
)
from sepnas.plan.shapes import Range, Region


class Reshape(GraphOperator):
    """The same values in the same order with other sizes: view, flatten, squeeze, unsqueeze.

    Axes fall into the smallest groups with the same product before and after. A region is mapped group by group; it
    stays a box when its values lie in one run within the group.
    """

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        return {"size": list(_size_of(overload, use))}

    def output(self, use: OperatorUse) -> Dims:
        size = tuple(use.get("size", ()))
        if not all(isinstance(each, int) for each in size) or math.prod(size) != math.prod(use["self"]):
            raise ValueError(f"{sizes_text(use['self'])} has another number of values than {sizes_text(size)}")
        return size

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        name, found = names["self"], ""
        for before, after in _groups(use["self"], self.output(use)):
            kept = [axis for axis in before if use["self"][axis] > 1] or list(before)
            found += name[kept[0]] if kept and len(after) == 1 else "?" * len(after)
        return found

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        size, found = self.output(use), {}
        for before, after in _groups(use["self"], size):
            axis = next((axis for axis in after if size[axis] > 1), None)
            if axis is None:
                continue
            inner = math.prod(size[axis + 1 : after[-1] + 1])
            lead = next((each for each in before if use["self"][each] > 1), before[-1])
            outer = math.prod(use["self"][lead + 1 : before[-1] + 1])
            multiple = outer // math.gcd(outer, inner)
            if multiple < size[axis]:
                found[axis] = multiple
        return found

    def widened(self, use: OperatorUse, region: Region) -> Region:
        size, ranges = self.output(use), list(region.ranges)
        for before, after in _groups(use["self"], size):
            dims, own = _at(size, after), _at(use["self"], before)
            run = _run_of(dims, _box(dims, _run_of(dims, tuple(region.ranges[axis] for axis in after))))
            while (wider := _run_of(dims, _box(dims, _run_of(own, _box(own, run))))) != run:
                run = wider
            for axis, each in zip(after, _box(dims, run), strict=True):
                ranges[axis] = each
        return Region(tuple(ranges))

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        size, ranges = self.output(use), [(0, 1)] * len(use["self"])
        for before, after in _groups(use["self"], size):
            own = _at(use["self"], before)
            run = _run_of(_at(size, after), tuple(region.ranges[axis] for axis in after))
            for axis, each in zip(before, _box(own, run), strict=True):
                ranges[axis] = each
        return exactly({"self": Region(tuple(ranges))}, {"size": list(region.dims)}, region.dims)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        return (AtenCall("reshape.default", {"self": "self"}, {"shape": list(self.output(use))}),)


def _size_of(overload: str, use: OperatorUse) -> Dims:
    data, name = use["self"], overload.partition(".")[0]
    rank = len(data)
    if name == "unsqueeze":
        axis = front_axis(use.get("dim"), rank + 1)
        return (*data[:axis], 1, *data[axis:])
    if name == "squeeze":
        axes = use.axes("dim", rank) if "dim" in use.attributes else tuple(range(rank))
        return tuple(n for axis, n in enumerate(data) if axis not in axes or n != 1)
    if name == "flatten":
        first, last = use.axis("start_dim", rank), use.axis("end_dim", rank, -1)
        return (*data[:first], math.prod(data[first : last + 1]), *data[last + 1 :])
    if name == "unflatten":
        axis = use.axis("dim", rank)
        return (*data[:axis], *_solved(use.get("sizes"), data[axis]), *data[axis + 1 :])
    return _solved(use.get("size", use.get("shape")), math.prod(data))


def _solved(sizes: Dims, values: int) -> Dims:
    """Sizes with the one that is -1 worked out."""
    known = math.prod(each for each in sizes if each != -1)
    return tuple(values // known if each == -1 and known else each for each in sizes)


def _at(dims: Dims, axes: range) -> Dims:
    return tuple(dims[axis] for axis in axes)


def _groups(before: Dims, after: Dims) -> Iterator[tuple[range, range]]:
    """The smallest runs of axes with the same product on both sides; axes of size 1 join the run before or after."""
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        if len(before) == i or len(after) == j:  # only sizes of 1 can be left over
            i, j = len(before) if j == len(after) else i, len(after) if i == len(before) else j
        yield range(first, i), range(second, j)


def _run_of(dims: Dims, ranges: tuple[Range, ...]) -> Range:
    """The first and last place of a box's values, in their order."""
    first = last = 0
    for size, (start, stop) in zip(dims, ranges, strict=True):
        first, last = first * size + start, last * size + stop - 1
    return first, last + 1


def _box(dims: Dims, run: Range) -> tuple[Range, ...]:
    """The smallest box that holds a run of places and whose values are one run."""
    found: list[Range] = []
    first, stop = run
    for axis, _ in enumerate(dims):
        inner = math.prod(dims[axis + 1 :])
        low, high = first // inner, -(-stop // inner)
        found.append((low, high))
        if high - low > 1:
            return (*found, *((0, size) for size in dims[axis + 1 :]))
        first, stop = first - low * inner, stop - low * inner
    return tuple(found)


class Permute(GraphOperator):
    """The axes in another order, ``dims``; also transpose."""

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        rank = len(use["self"])
        if overload.startswith("permute"):
            return {"dims": [front_axis(each, rank, "dims") for each in use.get("dims")]}
        order = list(range(rank))
        one, other = (use.axis("dim0", rank), use.axis("dim1", rank)) if rank > 1 else (0, 0)
        if overload.partition(".")[0] in ("t", "numpy_T") and rank > 1:
            one, other = 0, 1
        if rank:
            order[one], order[other] = order[other], order[one]
        return {"dims": order}

    def _order(self, use: OperatorUse) -> Dims:
        order = tuple(use.get("dims", ()))
        if sorted(order) != list(range(len(use["self"]))):
            raise ValueError(f"attribute `dims` must hold each axis of {sizes_text(use['self'])} once, got {order}")
        return order

    def output(self, use: OperatorUse) -> Dims:
        return tuple(use["self"][axis] for axis in self._order(use))

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        return "".join(names["self"][axis] for axis in self._order(use))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["self"])), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        ranges = dict(zip(self._order(use), region.ranges, strict=True))
        own = Region(tuple(ranges[axis] for axis in range(len(ranges))))
        return exactly({"self": own}, use.attributes, region.dims)


class Expand(GraphOperator):
    """Axes of size 1 repeated to ``size``."""

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        size, data = list(use.get("size")), use["self"]
        own = (1,) * (len(size) - len(data)) + tuple(data)
        return {"size": [n if each == -1 else each for each, n in zip(size, own, strict=True)]}

    def output(self, use: OperatorUse) -> Dims:
        size = tuple(use.get("size", ()))
        if len(size) < len(use["self"]) or broadcast_sizes(use["self"], size) != size:
            raise ValueError(f"{sizes_text(use['self'])} cannot be expanded to {sizes_text(size)}")
        return size

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        return "?" * (len(self.output(use)) - len(names["self"])) + names["self"]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        own = broadcast_region(region.ranges, use["self"])
        return exactly({"self": own}, {"size": list(region.dims)}, region.dims)


def broadcast_sizes(dims: Dims, size: Dims) -> Dims:
    """``size`` if ``dims`` can be expanded to it."""
    own = (1,) * (len(size) - len(dims)) + tuple(dims)
    return tuple(total if n in (1, total) else n for n, total in zip(own, size, strict=True))
