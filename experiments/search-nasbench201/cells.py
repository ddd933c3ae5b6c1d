"""The cells of NAS-Bench-201: six edges, one of five operations on each, and what a network of one cell costs.

The network (Dong & Yang, arXiv 2001.00326): a 3x3 convolution to 16 channels, three stages of five cells with 16, 32
and 64 channels, a residual block that halves the map between stages, mean pooling, a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sepnas.errors import SpecError

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""Node and source of each edge, in the order in which a cell is written."""
WINDOWS = {"none": 0, "skip_connect": 0, "avg_pool_3x3": 0, "nor_conv_1x1": 1, "nor_conv_3x3": 9}
"""Weights for each pair of channels; a convolution is followed by batch norm."""
OPERATIONS = tuple(WINDOWS)
CHANNELS = (16, 32, 64)
CELLS_OF_A_STAGE = 5


@dataclass(frozen=True)
class Cell:
    """The operation of each edge."""

    operations: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``; raises :class:`SpecError` that names the allowed form."""
        found = tuple(part.partition("~") for node in text.split("+") for part in node.strip("|").split("|"))
        cell = cls(tuple(operation for operation, _, _ in found))
        if set(cell.operations) <= set(OPERATIONS) and len(found) == len(EDGES) and cell.text == text:
            return cell
        raise SpecError(f"cell {text!r} cannot be read; allowed: {_FORM}, with op one of {', '.join(OPERATIONS)}")

    @property
    def text(self) -> str:
        return _written(self.operations)

    @cached_property
    def weights_of_pair(self) -> int:
        return sum(WINDOWS[operation] for operation in self.operations)

    @cached_property
    def exchanged_nodes(self) -> int:
        """The nodes whose map has to be whole before a convolution reads it, if devices share the output channels."""
        return len(
            {source for (_, source), operation in zip(EDGES, self.operations, strict=True) if WINDOWS[operation]}
        )


@dataclass(frozen=True)
class Skeleton:
    """The network around the cells, for square images of ``image_size`` pixels."""

    image_size: int
    num_classes: int

    def macs(self, cell: Cell) -> int:
        """Multiply-accumulates of one image, in convolutions and the linear layer, as the benchmark counts them."""
        size, total = self.image_size, 27 * CHANNELS[0] * self.image_size**2
        for stage, width in enumerate(CHANNELS):
            if stage:
                size //= 2
                total += _block_weights(width) * size**2
            total += CELLS_OF_A_STAGE * cell.weights_of_pair * width**2 * size**2
        return total + CHANNELS[-1] * self.num_classes

    def parameters(self, cell: Cell) -> int:
        """Weights, biases and the scales and shifts of batch norms."""
        convolutions = sum(WINDOWS[operation] > 0 for operation in cell.operations)
        total = 27 * CHANNELS[0] + 2 * CHANNELS[0]
        for stage, width in enumerate(CHANNELS):
            if stage:
                total += _block_weights(width) + 4 * width
            total += CELLS_OF_A_STAGE * (cell.weights_of_pair * width**2 + 2 * convolutions * width)
        return total + 2 * CHANNELS[-1] + CHANNELS[-1] * self.num_classes + self.num_classes

    def exchanged_bytes(self, cell: Cell) -> int:
        """Bytes that two devices with half of the channels each send within the cells, as fp32, for one image.

        Each sends its half of the map of every node that a convolution reads.
        """
        maps = sum(width * (self.image_size >> stage) ** 2 for stage, width in enumerate(CHANNELS))
        return 4 * CELLS_OF_A_STAGE * cell.exchanged_nodes * maps


def _block_weights(width: int) -> int:
    """A residual block that doubles the channels: two 3x3 convolutions and a 1x1 one beside them."""
    return 9 * width * width // 2 + 9 * width**2 + width * width // 2


def _written(operations: tuple[str, ...]) -> str:
    nodes: dict[int, list[str]] = {}
    for (node, source), operation in zip(EDGES, operations, strict=True):
        nodes.setdefault(node, []).append(f"|{operation}~{source}")
    return "+".join("".join(parts) + "|" for parts in nodes.values())


_FORM = _written(("op",) * len(EDGES))
