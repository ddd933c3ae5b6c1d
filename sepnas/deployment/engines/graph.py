"""A segment's graph as passed to an engine: read from a file, checked, with the shapes of all its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float32]

ShapeOf: TypeAlias = tuple[int, ...]


@dataclass
class Node:
    """One operator of a graph, with ONNX's names."""

    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    """An empty name stands for an omitted optional input."""
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """Integer attributes."""
    fractions: dict[str, float] = field(default_factory=dict)
    """Floating-point attributes."""


@dataclass(frozen=True)
class CheckedGraph:
    """A graph of known operators only. ``shapes`` has the shape of every tensor, for the given input shapes; ``axes``
    has the constants that are short lists of integers, ``numbers`` those that are one fraction."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, ShapeOf]
    axes: Mapping[str, list[int]]
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentGraph:
    """The content of a graph file, already checked, and the weights to insert, in order.

    ``checked`` checks the same graph for inputs of other shapes and raises :class:`ValueError`.
    """

    path: Path
    data: bytes
    weights: Sequence[Array]
    checked: Callable[[Sequence[ShapeOf]], CheckedGraph]


if TYPE_CHECKING:
    OpenGraph: TypeAlias = Callable[[Sequence[Array]], Sequence[Array]]
    """Computes a graph's outputs from its inputs, in order; called by one thread at a time."""
