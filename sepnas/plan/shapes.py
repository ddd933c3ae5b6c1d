"""Shapes and regions of tensors with named axes, always for one sample: without the batch axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import TypeAlias

_MANY = 24
"""From this number of regions on, numpy compares them faster."""
Range: TypeAlias = tuple[int, int]
"""``(start, stop)`` along one axis; ``stop`` is exclusive."""

FLOAT_BYTES = 4
"""Bytes per value: tensors of a plan are fp32 on the devices."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a tensor and the names of its axes, one letter each: ``Shape((16, 8, 8), "CHW")``."""

    dims: tuple[int, ...]
    axes: str
    num_values: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # precomputed: a search reads it more often than it builds a shape
        object.__setattr__(self, "num_values", math.prod(self.dims))

    @staticmethod
    def chw(channels: int, height: int, width: int) -> Shape:
        """The shape of feature maps or an image. Equal shapes are one object."""
        return _shape((channels, height, width), "CHW")

    @staticmethod
    def vector(channels: int) -> Shape:
        """The shape of one value per channel, such as logits. Equal shapes are one object."""
        return _shape((channels,), "C")

    def size(self, axis: str) -> int:
        """The size along a named axis; :class:`ValueError` if there is no such axis."""
        return self.dims[self.axes.index(axis)]

    def __str__(self) -> str:
        return f"{self.axes} {'x'.join(map(str, self.dims))}"


@dataclass(frozen=True, slots=True)
class Region:
    """A block of a tensor: one range per axis."""

    ranges: tuple[Range, ...]
    num_values: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_values", math.prod([stop - start for start, stop in self.ranges]))

    @staticmethod
    def whole(shape: Shape) -> Region:
        """The region that covers a whole tensor. Equal regions are one object."""
        return _whole(shape.dims)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple([stop - start for start, stop in self.ranges])

    @property
    def slices(self) -> tuple[slice, ...]:
        """An index for an array with a leading batch axis: ``x[region.slices]``."""
        return (slice(None), *(slice(start, stop) for start, stop in self.ranges))

    def shape(self, of: Shape) -> Shape:
        """The shape of this region of a tensor of shape ``of``."""
        return _shape_in(self.ranges, of.axes)

    def outside(self, shape: Shape) -> tuple[str, str] | None:
        """The first range that is empty or outside the tensor, and the tensor's size there; None if all fit."""
        if len(self.ranges) != len(shape.dims):
            return f"{len(self.ranges)} axes", shape.axes or "none"
        for axis, (start, stop), size in zip(shape.axes, self.ranges, shape.dims, strict=True):
            if not 0 <= start < stop <= size:
                return f"{axis} {start}..{stop}", str(size)
        return None

    def __str__(self) -> str:
        return "[" + ", ".join(f"{start}..{stop}" for start, stop in self.ranges) + "]"


def cover_problem(shape: Shape, regions: Sequence[Region]) -> str | None:
    """Why regions within a tensor do not cover each of its values exactly once; None if they do."""
    pair = _overlapping(regions) if len(regions) < _MANY else _overlapping_of_many(regions)
    if pair is not None:
        return f"overlap at {pair[0]} and {pair[1]}"
    if sum(region.num_values for region in regions) != shape.num_values:
        return f"leave a part of {shape} without a value"
    return None


def _overlapping(regions: Sequence[Region]) -> tuple[Region, Region] | None:
    """The first two regions that share a value."""
    for one, other in combinations(regions, 2):
        if all(a < d and c < b for (a, b), (c, d) in zip(one.ranges, other.ranges, strict=True)):
            return one, other
    return None


def _overlapping_of_many(regions: Sequence[Region]) -> tuple[Region, Region] | None:
    """Like :func:`_overlapping`, with all pairs compared at once."""
    import numpy as np  # late: plans with few regions do without

    bounds = np.array([region.ranges for region in regions]).reshape(len(regions), -1, 2)
    starts, stops = bounds[..., 0], bounds[..., 1]
    shared = ~np.tri(len(regions), dtype=bool)
    for start, stop in zip(starts.T, stops.T, strict=True):
        before = start[:, None] < stop
        shared &= before & before.T
    first = int(shared.argmax())
    one, other = divmod(first, len(regions))
    return (regions[one], regions[other]) if shared[one, other] else None


@lru_cache(maxsize=1 << 12)
def _shape(dims: tuple[int, ...], axes: str) -> Shape:
    return Shape(dims, axes)


@lru_cache(maxsize=1 << 12)
def _shape_in(ranges: tuple[Range, ...], axes: str) -> Shape:
    return _shape(tuple([stop - start for start, stop in ranges]), axes)


@lru_cache(maxsize=1 << 12)
def _whole(dims: tuple[int, ...]) -> Region:
    return Region(tuple([(0, size) for size in dims]))
