"""Operators that repeat what is there: tiles, repeated places, and overlapping windows."""

from __future__ import annotations

from collections.abc import Mapping

from sepnas.plan.kinds.kind import Attributes, Dims, GraphOperator, OperatorUse, Restriction, exactly, sizes_text
from sepnas.plan.kinds.windows import Windows
from sepnas.plan.shapes import Region


class Repeat(GraphOperator):
    """The whole tensor ``repeats`` times along each axis."""

    parameters = ()

    def _repeats(self, use: OperatorUse) -> tuple[Dims, Dims]:
        """The sizes with leading ones, and how often each axis is repeated."""
        repeats = tuple(use.get("repeats", ()))
        if len(repeats) < len(use["self"]) or any(not isinstance(each, int) or each < 1 for each in repeats):
            raise ValueError(f"attribute `repeats` must say how often each axis is repeated, got {repeats}")
        return (1,) * (len(repeats) - len(use["self"])) + tuple(use["self"]), repeats

    def output(self, use: OperatorUse) -> Dims:
        return tuple(size * times for size, times in zip(*self._repeats(use), strict=True))

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        return "?" * (len(self.output(use)) - len(names["self"])) + names["self"]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return {axis: 1 for axis, times in enumerate(self._repeats(use)[1]) if times == 1}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        sizes, repeats = self._repeats(use)
        axes = zip(region.ranges, sizes, repeats, strict=True)
        ranges = [span if times == 1 else (0, size) for span, size, times in axes]
        own = Region(tuple(ranges[len(ranges) - len(use["self"]) :]))
        return exactly({"self": own}, use.attributes, region.dims)


class RepeatEach(GraphOperator):
    """Each place along ``dim`` ``repeats`` times, one after the other."""

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        return {name: use.get(name) for name in ("repeats", "dim")}

    def _numbers(self, use: OperatorUse) -> tuple[int, int]:
        times = use.get("repeats", 1)
        if not isinstance(times, int) or times < 1 or not use["self"]:
            raise ValueError(f"places of {sizes_text(use['self'])} cannot be repeated {times!r} times")
        return use.axis("dim", len(use["self"])), times

    def output(self, use: OperatorUse) -> Dims:
        axis, times = self._numbers(use)
        return tuple(size * times if each == axis else size for each, size in enumerate(use["self"]))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        axis, times = self._numbers(use)
        return {each: times if each == axis else 1 for each in range(len(use["self"]))}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, times = self._numbers(use)
        ranges = list(region.ranges)
        ranges[axis] = (ranges[axis][0] // times, ranges[axis][1] // times)
        return exactly({"self": Region(tuple(ranges))}, use.attributes, region.dims)


class Unfold(GraphOperator):
    """Windows of ``size`` places along ``dimension``, ``step`` apart; a new last axis holds the places of a window."""

    parameters = ()

    def _windows(self, use: OperatorUse) -> tuple[int, Windows]:
        axis = use.axis("dimension", len(use["self"]))
        return axis, Windows(use["self"][axis], use.get("size", 1), use.get("step", 1))

    def output(self, use: OperatorUse) -> Dims:
        if not use["self"]:
            raise ValueError(f"{sizes_text(use['self'])} has no windows")
        axis, windows = self._windows(use)
        return (*use["self"][:axis], windows.count, *use["self"][axis + 1 :], windows.kernel)

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        return names["self"] + "?"

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["self"])), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, windows = self._windows(use)
        ranges = list(region.ranges[:-1])
        ranges[axis] = windows.inputs(*ranges[axis])[0]
        return exactly({"self": Region(tuple(ranges))}, use.attributes, region.dims)
