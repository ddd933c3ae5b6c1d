"""Operators that join, take, surround and turn pieces of tensors: cat, stack, slice, select, pad, roll."""

from __future__ import annotations

from collections.abc import Mapping

from sepnas.plan.kinds.kind import (
    AtenCall,
    Attributes,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    exactly,
    sizes_text,
)
from sepnas.plan.shapes import Range, Region


class Concatenation(GraphOperator):
    """The operands ``tensors.0``, ``tensors.1``, ... one after the other along ``dim``."""

    parameters = ()

    def _axis(self, use: OperatorUse) -> int:
        shapes = list(use.inputs.values())
        axis = use.axis("dim", len(shapes[0])) if shapes and shapes[0] else 0
        others = {(*dims[:axis], *dims[axis + 1 :]) for dims in shapes}
        if len(others) != 1 or any(len(dims) != len(shapes[0]) for dims in shapes) or not shapes[0]:
            raise ValueError(f"{' and '.join(map(sizes_text, shapes))} cannot be joined along axis {axis}")
        return axis

    def output(self, use: OperatorUse) -> Dims:
        axis, shapes = self._axis(use), list(use.inputs.values())
        return (*shapes[0][:axis], sum(dims[axis] for dims in shapes), *shapes[0][axis + 1 :])

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, offset, regions = self._axis(use), 0, {}
        start, stop = region.ranges[axis]
        for role, dims in use.inputs.items():
            low, high = max(start - offset, 0), min(stop - offset, dims[axis])
            if low < high:
                regions[role] = Region((*region.ranges[:axis], (low, high), *region.ranges[axis + 1 :]))
            offset += dims[axis]
        return exactly(regions, {"dim": axis}, region.dims)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        return (AtenCall(self.aten[0], {"tensors": tuple(use.inputs)}, use.attributes),)


class Stack(GraphOperator):
    """Operands of the same sizes along a new axis ``dim``."""

    parameters = ()

    def _axis(self, use: OperatorUse) -> int:
        shapes = set(use.inputs.values())
        if len(shapes) != 1:
            raise ValueError(f"{' and '.join(map(sizes_text, use.inputs.values()))} cannot be stacked")
        return use.axis("dim", len(next(iter(shapes))) + 1)

    def output(self, use: OperatorUse) -> Dims:
        axis, dims = self._axis(use), next(iter(use.inputs.values()))
        return (*dims[:axis], len(use.inputs), *dims[axis:])

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        axis, first = self._axis(use), next(iter(names.values()))
        return f"{first[:axis]}?{first[axis:]}"

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis = self._axis(use)
        own = Region((*region.ranges[:axis], *region.ranges[axis + 1 :]))
        roles = list(use.inputs)[slice(*region.ranges[axis])]
        return exactly(dict.fromkeys(roles, own), {"dim": axis}, region.dims)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        return (AtenCall(self.aten[0], {"tensors": tuple(use.inputs)}, use.attributes),)


class StridedSlice(GraphOperator):
    """Every ``step``-th place from ``start`` to ``end`` along ``dim``."""

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        axis = use.axis("dim", len(use["self"]))
        step, size = use.get("step", 1), use["self"][axis]
        start, stop, step = slice(use.get("start"), use.get("end"), step).indices(size)
        return {"dim": axis, "start": start, "end": max(start, stop), "step": step}

    def _places(self, use: OperatorUse) -> tuple[int, range]:
        axis = use.axis("dim", len(use["self"]))
        places = range(use.get("start", 0), use.get("end", use["self"][axis]), use.get("step", 1))
        if not places or places[0] < 0 or places[-1] >= use["self"][axis]:
            raise ValueError(f"takes places {places} of {use['self'][axis]} along axis {axis}")
        return axis, places

    def output(self, use: OperatorUse) -> Dims:
        axis, places = self._places(use)
        return (*use["self"][:axis], len(places), *use["self"][axis + 1 :])

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["self"])), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, places = self._places(use)
        start, stop = region.ranges[axis]
        low, high = places[start], places[stop - 1] + 1
        own = Region((*region.ranges[:axis], (low, high), *region.ranges[axis + 1 :]))
        attributes = {"dim": axis, "start": 0, "end": high - low, "step": places.step}
        return exactly({"self": own}, attributes, region.dims)


class Select(GraphOperator):
    """One place, ``index``, along ``dim``, which is gone then."""

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        axis = use.axis("dim", len(use["self"]))
        return {"dim": axis, "index": use.get("index") % max(1, use["self"][axis])}

    def output(self, use: OperatorUse) -> Dims:
        axis, index = use.axis("dim", len(use["self"])), use.get("index", 0)
        if not use["self"] or not 0 <= index < use["self"][axis]:
            raise ValueError(f"takes place {index} of {sizes_text(use['self'])} along axis {axis}")
        return (*use["self"][:axis], *use["self"][axis + 1 :])

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        axis = use.axis("dim", len(use["self"]))
        return names["self"][:axis] + names["self"][axis + 1 :]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["self"]) - 1), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, index = use.axis("dim", len(use["self"])), use.get("index", 0)
        own = Region((*region.ranges[:axis], (index, index + 1), *region.ranges[axis:]))
        return exactly({"self": own}, {"dim": axis, "index": 0}, region.dims)


class Pad(GraphOperator):
    """Values around a tensor: constant ones, or its own (reflected, repeated). ``pad`` goes from the last axis."""

    parameters = ()

    def _pairs(self, use: OperatorUse) -> list[Range]:
        """The padding before and after each axis."""
        numbers, rank = list(use.get("pad", ())), len(use["self"])
        if len(numbers) % 2 or len(numbers) > 2 * rank:
            raise ValueError(f"attribute `pad` must have pairs for at most {rank} axes, got {numbers}")
        pairs = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)]
        return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]

    def _mode(self, use: OperatorUse) -> str:
        return str(use.get("mode", "constant"))

    def output(self, use: OperatorUse) -> Dims:
        pairs = zip(use["self"], self._pairs(use), strict=True)
        dims = tuple(size + before + after for size, (before, after) in pairs)
        if min(dims, default=1) < 1:
            raise ValueError(f"leaves {sizes_text(dims)} of {sizes_text(use['self'])}")
        return dims

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        constant = self._mode(use) == "constant"
        return {axis: 1 for axis, pair in enumerate(self._pairs(use)) if constant or pair == (0, 0)}

    def widened(self, use: OperatorUse, region: Region) -> Region:
        """A region of padding alone is widened to the nearest value of the operand."""
        cuts, found = self.cuts(use), []
        axes = zip(region.ranges, use["self"], self._pairs(use), self.output(use), strict=True)
        for axis, ((start, stop), size, (before, _), total) in enumerate(axes):
            near = (min(start, max(before + size - 1, 0)), max(stop, min(before + 1, total)))
            found.append(near if axis in cuts else (0, total))
        return Region(tuple(found))

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        cuts, ranges, numbers = self.cuts(use), [], []
        axes = zip(region.ranges, use["self"], self._pairs(use), strict=True)
        for axis, ((start, stop), size, pair) in enumerate(axes):
            low, high = max(start - pair[0], 0), min(stop - pair[0], size)
            ranges.append((low, high) if axis in cuts else (0, size))
            numbers.append((low - (start - pair[0]), stop - pair[0] - high) if axis in cuts else pair)
        count = len(use.get("pad", ())) // 2
        kept = numbers[len(numbers) - count :]
        attributes = {**use.attributes, "pad": [number for pair in reversed(kept) for number in pair]}
        return exactly({"self": Region(tuple(ranges))}, attributes, region.dims)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        mode = self._mode(use)
        arguments = {"pad": list(use.get("pad", ()))}
        if mode == "constant":
            return (
                AtenCall("constant_pad_nd.default", {"self": "self"}, {**arguments, "value": use.get("value") or 0}),
            )
        return (AtenCall("pad.default", {"self": "self"}, {**arguments, "mode": mode}),)


class Roll(GraphOperator):
    """Places moved by ``shifts`` along ``dims``, those at the end to the beginning."""

    parameters = ()

    def _moved(self, use: OperatorUse) -> tuple[int, ...]:
        rank = len(use["self"])
        return use.axes("dims", rank) if use.get("dims") else tuple(range(rank))

    def output(self, use: OperatorUse) -> Dims:
        self._moved(use)
        return use["self"]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        moved = self._moved(use)
        return {axis: 1 for axis in range(len(use["self"])) if axis not in moved}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        return exactly({"self": region}, use.attributes, region.dims)
