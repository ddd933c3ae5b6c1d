"""A segment's graph as an engine gets it: read from a file, looked through, and with the shape of all that it makes."""

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
    """One operator of a graph, by ONNX's names."""

    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    """"" stands for one that is left out."""
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """Attributes that are whole numbers."""
    fractions: dict[str, float] = field(default_factory=dict)
    """Attributes that are numbers with a point."""


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that holds nothing but known operators; ``shapes`` are those of all tensors, for inputs of given shapes,
    and ``axes`` the constants that are a few whole numbers."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, ShapeOf]
    axes: Mapping[str, list[int]]


@dataclass(frozen=True)
class SegmentGraph:
    """What is opened: a file's content, which has been checked, and the weights that are put in, in order.

    ``checked`` gives the same graph for inputs of other shapes, by name; it raises :class:`ValueError`.
    """

    path: Path
    data: bytes
    weights: Sequence[Array]
    checked: Callable[[Sequence[ShapeOf]], CheckedGraph]


if TYPE_CHECKING:
    OpenGraph: TypeAlias = Callable[[Sequence[Array]], Sequence[Array]]
    """The outputs of a graph for its inputs, in order; called by one thread at a time."""
