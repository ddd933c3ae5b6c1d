"""The terms that an operator joins to each value of its output, where devices may share them out: partial results."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sepnas.plan.shapes import Region


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of each output value lie along ``axes`` of the operand ``role``, of sizes ``dims``.

    These are input channels of a layer, or the places over which a mean is taken. A merge of kind ``merge`` joins the
    partial results.
    """

    role: str
    axes: tuple[int, ...]
    dims: tuple[int, ...]
    merge: str = "sum"

    @staticmethod
    def along(role: str, dims: tuple[int, ...], *axes: int, merge: str = "sum") -> Terms:
        """The terms along these axes of an operand of sizes ``dims``."""
        return Terms(role, axes, tuple(dims[axis] for axis in axes), merge)

    @property
    def count(self) -> int:
        return math.prod(self.dims)

    def of(self, region: Region) -> Region:
        """The terms that a region of the operand has."""
        return Region(tuple(region.ranges[axis] for axis in self.axes))

    def operand(self, dims: tuple[int, ...], terms: Region) -> Region:
        """The region of the operand, of sizes ``dims``, that has some of the terms."""
        ranges = dict(zip(self.axes, terms.ranges, strict=True))
        return Region(tuple(ranges.get(axis, (0, size)) for axis, size in enumerate(dims)))
