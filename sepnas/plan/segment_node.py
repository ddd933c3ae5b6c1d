"""The graph of a segment: its operators on regions, so that any consumer can compute it without the network's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sepnas.plan.shapes import Region


@dataclass(frozen=True, slots=True)
class SegmentNode:
    """One operator of a segment's graph, a kind of :mod:`sepnas.plan.kinds` or an opaque one (``aten.``).

    ``layer`` is the network's operator of which this is a part. ``inputs`` are its operands by role: the name of a
    tensor, or the place of a weight in ``Segment.weights``. ``shapes`` are the sizes of ``outputs`` for one sample, the
    batch axis included. ``attributes`` are those of the part: padding may differ on the two sides of an axis.
    ``region`` is the part of the layer's output that it computes, the batch axis included; with ``terms``, it joins
    only these terms of each value, such as input channels, or rows and columns of a mean. An operator between layers,
    such as a slice, has no region.
    """

    layer: str
    operator: str
    inputs: Mapping[str, str | int]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    attributes: Mapping[str, Any]
    region: Region | None = None
    terms: Region | None = None


def frozen(value: Any) -> Any:
    """An attribute with tuples in place of lists, as it is read from a file."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value
