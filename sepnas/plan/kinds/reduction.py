"""Sums, means, maxima and norms along axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sepnas.plan.kinds.kind import AtenCall, Dims, GraphOperator, OperatorUse, Restriction, exactly
from sepnas.plan.kinds.shares import check_divisor, pooled_whole, scaling, share
from sepnas.plan.kinds.terms import Terms
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region


class Reduction(GraphOperator):
    """A sum, mean, maximum or norm along the axes ``dim``, all of them if it is not given."""

    parameters = ()
    merges: ClassVar[Mapping[str, str]] = {"mean": "sum", "sum": "sum", "amax": "maximum"}
    """Those that devices may share out, with the merge that joins the shares."""

    def reduced(self, use: OperatorUse) -> tuple[int, ...]:
        rank = len(use["self"])
        return use.axes("dim", rank) if use.get("dim") not in (None, [], ()) else tuple(range(rank))

    def output(self, use: OperatorUse) -> Dims:
        data, reduced, keeps = use["self"], self.reduced(use), use.get("keepdim", False)
        check_divisor(use)
        return tuple(1 if axis in reduced else n for axis, n in enumerate(data) if keeps or axis not in reduced)

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        name, reduced = names["self"], self.reduced(use)
        return "".join(each for axis, each in enumerate(name) if use.get("keepdim", False) or axis not in reduced)

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        reduced, left = self.reduced(use), list(region.ranges)
        ranges = []
        for axis, size in enumerate(use["self"]):
            if axis in reduced:
                ranges.append((0, size))
                if use.get("keepdim", False):
                    left.pop(0)
            else:
                ranges.append(left.pop(0))
        return exactly({"self": Region(tuple(ranges))}, use.attributes, region.dims)

    def terms(self, use: OperatorUse) -> Terms | None:
        reduced = self.reduced(use)
        if self.name not in self.merges or 0 in reduced or not reduced:  # samples are never shared out
            return None
        return Terms.along("self", use["self"], *reduced, merge=self.merges[self.name])

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        return share(self, use, terms, self.name == "mean")

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        attributes = {**use.attributes, "dim": list(self.reduced(use))}
        return (AtenCall(self.aten[0], {"self": "self"}, attributes), *scaling(use, self.reduced(use)))

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        data = use["self"]
        if self.name != "mean" or len(data) != 4 or set(self.reduced(use)) != {2, 3}:
            return ()
        return (pooled_whole(*data[1:]),)
