"""Pooling over windows, and over all positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sepnas.plan.kinds.kind import (
    AtenCall,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    exactly,
    sizes_text,
)
from sepnas.plan.kinds.shares import check_divisor, pooled_whole, scaling, share
from sepnas.plan.kinds.terms import Terms
from sepnas.plan.kinds.windows import Windows, is_even, pad_argument, paddings, windows_of
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region


@dataclass(frozen=True)
class WindowPooling(GraphOperator):
    """Maximum or mean over windows of ``spatial`` axes; ``fill`` is the value of the padding."""

    spatial: int = 2
    fill: float = 0.0

    parameters = ()
    merge: ClassVar[str] = "maximum"

    def windows(self, use: OperatorUse) -> tuple[Windows, ...]:
        return windows_of(use, use["self"], use.per_axis("kernel_size", self.spatial, 1))

    def output(self, use: OperatorUse) -> Dims:
        data = use["self"]
        if len(data) <= self.spatial:
            raise ValueError(f"{sizes_text(data)} has no {self.spatial} axes to pool over")
        check_divisor(use)
        return (*data[: -self.spatial], *(axis.count for axis in self.windows(use)))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        first = len(use["self"]) - self.spatial
        windows = enumerate(self.windows(use), start=first)
        return {
            **dict.fromkeys(range(first), 1),
            **{axis: 1 for axis, each in windows if each.can_be_cut and self._is_plain(use, each)},
        }

    def _is_plain(self, use: OperatorUse, axis: Windows) -> bool:
        """Whether a value does not depend on how far its window reaches over the border."""
        return True

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        leading, spatial = region.ranges[: -self.spatial], region.ranges[-self.spatial :]
        first, cuts = len(leading), self.cuts(use)
        if any(axis not in cuts for axis in range(first, len(region.ranges))):  # all of them, or none
            return exactly({"self": Region((*leading, *_all(use["self"][first:])))}, use.attributes, region.dims)
        covered = [each.inputs(*ranges) for each, ranges in zip(self.windows(use), spatial, strict=True)]
        padding = [list(pair) for _, pair in covered]
        stride = [each.stride for each in self.windows(use)]
        attributes = {**use.attributes, "padding": padding, "stride": stride, "ceil_mode": False}
        return exactly({"self": Region((*leading, *(each for each, _ in covered)))}, attributes, region.dims)

    def terms(self, use: OperatorUse) -> Terms | None:
        """All places, if there is one window, which covers exactly these."""
        covering = all(
            (axis.count, axis.reach, axis.dilation, axis.before, axis.after) == (1, axis.size, 1, 0, 0)
            for axis in self.windows(use)
        )
        return _places(use, self.spatial, self.merge) if covering else None

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        sizes = list(terms.dims)
        window = {"kernel_size": sizes, "stride": sizes, "padding": [0] * self.spatial, "ceil_mode": False}
        return share(self, use, terms, self.merge == "sum", window)

    def widened(self, use: OperatorUse, region: Region) -> Region:
        first, dims, cuts = len(use["self"]) - self.spatial, self.output(use), self.cuts(use)
        if all(axis in cuts for axis in range(first, len(dims))):
            return region
        return Region((*region.ranges[:first], *_all(dims[first:])))

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        padding = paddings(use, self.spatial)
        if is_even(padding) and all(2 * each.before <= each.kernel for each in self.windows(use)):
            plain = {**use.attributes, "padding": [before for before, _ in padding]}
            return (AtenCall(self.aten[0], {"self": "self"}, plain),)
        pad = {"pad": pad_argument(padding), "value": self.fill}
        return (
            AtenCall("constant_pad_nd.default", {"self": "self"}, pad),
            AtenCall(self.aten[0], {"self": ""}, {**use.attributes, "padding": [0] * self.spatial}),
        )

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        dims, axis = self.output(use), self.windows(use)[-1]
        channels = dims[1] if len(dims) > 1 else 1
        height = math.prod(dims) // (channels * dims[-1])
        return (Operator("pool", channels, channels, axis.kernel, axis.stride, 1, height, dims[-1]),)


class MeanPooling(WindowPooling):
    """The mean over windows; what counts in it at the border is an attribute."""

    merge = "sum"

    def terms(self, use: OperatorUse) -> Terms | None:
        return super().terms(use) if use.get("divisor_override") is None else None

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        return (*super().calls(use), *scaling(use, _last(use, self.spatial)))

    def _is_plain(self, use: OperatorUse, axis: Windows) -> bool:
        if axis.ceil and replace(axis, ceil=False).count != axis.count:
            return False
        return axis.before == axis.after == 0 or bool(use.get("count_include_pad", True))


@dataclass(frozen=True)
class AdaptivePooling(GraphOperator):
    """Mean or maximum to a given ``output_size``; cut along an axis where windows are equal and do not overlap."""

    spatial: int = 2

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        data = use["self"]
        if len(data) <= self.spatial:
            raise ValueError(f"{sizes_text(data)} has no {self.spatial} axes to pool over")
        check_divisor(use)
        return (*data[: -self.spatial], *use.per_axis("output_size", self.spatial, 1))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        data, out = use["self"], self.output(use)
        first = len(data) - self.spatial
        return {axis: 1 for axis in range(len(data)) if axis < first or data[axis] % out[axis] == 0}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        data, out = use["self"], self.output(use)
        ranges = [
            (start * size // count, -(-stop * size // count))
            for (start, stop), size, count in zip(region.ranges, data, out, strict=True)
        ]
        attributes = {**use.attributes, "output_size": list(region.dims[-self.spatial :])}
        return exactly({"self": Region(tuple(ranges))}, attributes, region.dims)

    @property
    def is_mean(self) -> bool:
        return self.name.startswith("adaptive_avg")

    def terms(self, use: OperatorUse) -> Terms | None:
        """All places, if there is one output for all of them."""
        whole = all(size == 1 for size in self.output(use)[-self.spatial :])
        return _places(use, self.spatial, "sum" if self.is_mean else "maximum") if whole else None

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        return share(self, use, terms, self.is_mean)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        """Equal windows that do not overlap are those of plain pooling, which all engines have."""
        sizes = list(zip(use["self"][-self.spatial :], self.output(use)[-self.spatial :], strict=True))
        if all(count == 1 for _, count in sizes):
            axes = list(range(-self.spatial, 0))
            overload = "mean.dim" if self.is_mean else "amax.default"
            pool = AtenCall(overload, {"self": "self"}, {"dim": axes, "keepdim": True})
            return (pool, *scaling(use, _last(use, self.spatial)))
        if all(size % count == 0 for size, count in sizes):
            kernel = [size // count for size, count in sizes]
            windows = {"kernel_size": kernel, "stride": kernel}
            kind = "avg" if self.is_mean else "max"
            return (AtenCall(f"{kind}_pool{self.spatial}d.default", {"self": "self"}, windows),)
        return super().calls(use)

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        data, dims = use["self"], self.output(use)
        channels, kernel = (data[1] if len(data) > 1 else 1), max(1, data[-1] // dims[-1])
        if math.prod(dims[-self.spatial :]) == 1:
            return (pooled_whole(channels, math.prod(data[-self.spatial : -1]), data[-1]),)
        height = math.prod(dims) // (channels * dims[-1])
        return (Operator("pool", channels, channels, kernel, kernel, 1, height, dims[-1]),)


def _last(use: OperatorUse, spatial: int) -> tuple[int, ...]:
    """The last axes of the operand."""
    rank = len(use["self"])
    return tuple(range(rank - spatial, rank))


def _places(use: OperatorUse, spatial: int, merge: str) -> Terms:
    return Terms.along("self", use["self"], *_last(use, spatial), merge=merge)


def _all(dims: Dims) -> tuple[tuple[int, int], ...]:
    return tuple((0, size) for size in dims)
