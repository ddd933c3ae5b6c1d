"""Layouts of tensors over devices, and the arithmetic of regions: intersections, differences, shares.

Regions here have the batch axis, as the tensors of a graph do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sepnas.plan.kinds.kind import Dims, whole
from sepnas.plan.shapes import Range, Region


@dataclass(frozen=True, slots=True)
class Layout:
    """The regions of an operator's output that each device computes and keeps.

    Several devices may compute the same values (``replicated``, and tiles that overlap); together they have all that is
    needed. With ``spans``, each of these devices joins some of the operator's terms only
    (:class:`sepnas.plan.kinds.terms.Terms`), such as some input channels or rows, and the pieces are where the partial
    results are merged and kept.
    """

    pieces: tuple[tuple[int, Region], ...]
    spans: Mapping[int, Region] = field(default_factory=dict)

    @staticmethod
    def on(device: int, dims: Dims) -> Layout:
        """The whole tensor on one device."""
        return Layout(((device, whole(dims)),))

    @staticmethod
    def replicated(dims: Dims, devices: Iterable[int]) -> Layout:
        """The whole tensor on each of these devices."""
        return Layout(tuple((device, whole(dims)) for device in devices))

    @staticmethod
    def split(dims: Dims, axis: int, ranges: Sequence[Range], spans: Mapping[int, Region] | None = None) -> Layout:
        """A range along one axis for each device; devices with an empty range have nothing."""
        pieces = tuple(
            (device, along(whole(dims), axis, each)) for device, each in enumerate(ranges) if each[0] < each[1]
        )
        return Layout(pieces, spans or {})

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices that compute."""
        return tuple(self.spans) if self.spans else tuple(dict.fromkeys(device for device, _ in self.pieces))

    @property
    def owners(self) -> tuple[int, ...]:
        """The devices that compute something that no device before them computes as well."""
        if self.spans:
            return self.devices
        found = dict[int, None]()
        for place, (device, region) in enumerate(self.pieces):
            if remaining([region], [before for _, before in self.pieces[:place]]):
                found[device] = None
        return tuple(found)


def along(region: Region, axis: int, span: Range) -> Region:
    """The region with another range along one axis."""
    return Region((*region.ranges[:axis], span, *region.ranges[axis + 1 :]))


def shares_of(size: int, shares: Sequence[float], multiple: int = 1) -> tuple[Range, ...]:
    """Ranges of ``size`` values in proportion to ``shares``, with borders at multiples of ``multiple``.

    Ranges of devices whose share is less than a half of a multiple are empty.
    """
    total, sum_, borders = sum(shares), 0.0, [0]
    for share in shares:
        sum_ += share
        near = round(size * sum_ / total / multiple) * multiple
        borders.append(min(size, max(near, borders[-1])))
    borders[-1] = size
    return tuple(pairwise(borders))


def intersection(one: Region, other: Region) -> Region | None:
    """The common part of two regions; None if they have none."""
    ranges = []
    for (a, b), (c, d) in zip(one.ranges, other.ranges, strict=True):
        start, stop = a if a > c else c, b if b < d else d
        if start >= stop:
            return None
        ranges.append((start, stop))
    return Region(tuple(ranges))


def contains(outer: Region, inner: Region) -> bool:
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer.ranges, inner.ranges, strict=True))


def bounding(one: Region, other: Region) -> Region:
    """The smallest region that holds both."""
    ranges = zip(one.ranges, other.ranges, strict=True)
    return Region(tuple((min(a, c), max(b, d)) for (a, b), (c, d) in ranges))


def difference(region: Region, taken: Region) -> list[Region]:
    """Disjoint regions that hold what is left of ``region`` without ``taken``."""
    common = intersection(region, taken)
    if common is None:
        return [region]
    found, left = list[Region](), list(region.ranges)
    for axis, (start, stop) in enumerate(common.ranges):
        first, last = left[axis]
        if first < start:
            left[axis] = first, start
            found.append(Region(tuple(left)))
        if stop < last:
            left[axis] = stop, last
            found.append(Region(tuple(left)))
        left[axis] = start, stop
    return found


def remaining(regions: Iterable[Region], taken: Iterable[Region]) -> list[Region]:
    """Disjoint regions that hold what is left of disjoint ``regions`` without all of ``taken``."""
    left = list(regions)
    for each in taken:
        if not left:
            break
        left = [rest for region in left for rest in difference(region, each)]
    return left


def within(region: Region, outer: Region) -> Region:
    """A region in coordinates of another one that holds it."""
    pairs = zip(region.ranges, outer.ranges, strict=True)
    return Region(tuple((start - first, stop - first) for (start, stop), (first, _) in pairs))


def joined(regions: Iterable[Region]) -> list[Region]:
    """Regions that cover all of these; those that overlap are replaced by the region around both."""
    found: list[Region] = []
    for each in regions:
        wide = each
        while found and (near := next((other for other in found if intersection(wide, other)), None)) is not None:
            found.remove(near)
            wide = bounding(wide, near)
        found.append(wide)
    return found
