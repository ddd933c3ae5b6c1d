"""The convolutions of the network family, narrow ones above all, and all ways in which training computes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

KINDS = ("1x1", "3x3")
CHANNELS = (1, 2, 4, 7, 8, 9, 15, 16, 17, 24, 32)
OUTPUTS = (4, 16, 17)
GROUPS, WIDTHS = (1, 4), (1, 4, 8)
STEMS = (1, 3)
SIDES, BATCHES = (8, 32), (1, 7, 63)
THREADS = (1, 2)
LAYOUTS, PRECISIONS = ("contiguous", "channels last"), ("fp32", "bf16")
WAYS = ("torch", "sepnas")


@dataclass(frozen=True)
class Shape:
    """A convolution of ``inputs`` to ``outputs`` channels, on ``batch`` square images."""

    kernel: int
    stride: int
    groups: int
    inputs: int
    outputs: int
    side: int
    batch: int


@dataclass(frozen=True)
class Case:
    """How a shape is computed: by torch's own layer, or as sepnas trains it."""

    shape: Shape
    layout: str
    precision: str
    threads: int
    way: str


def shapes() -> Iterator[Shape]:
    """Reduce, expand and shortcut (1x1), the group convolution and the stem (3x3)."""
    layers = [(1, 1, a, b) for a, b in product(CHANNELS, OUTPUTS)]
    layers += [(3, groups, groups * width, groups * width) for groups, width in product(GROUPS, WIDTHS)]
    layers += [(3, 1, a, b) for a, b in product(STEMS, OUTPUTS)]
    for kernel, groups, inputs, outputs in layers:
        for stride, side, batch in product((1, 2), SIDES, BATCHES):
            yield Shape(kernel, stride, groups, inputs, outputs, side, batch)


def cases(every: int) -> Iterator[Case]:
    """All of them, or one of ``every`` so many."""
    found = (
        Case(shape, layout, precision, threads, way)
        for shape in shapes()
        for layout, precision, threads, way in product(LAYOUTS, PRECISIONS, THREADS, WAYS)
        if way == "torch" or (shape.kernel, shape.stride) == (1, 2)  # elsewhere both are the same layer
    )
    return (case for number, case in enumerate(found) if number % every == 0)
