"""A network that was found, before it is traced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.export import ExportedProgram

from sepnas.errors import ImportFailedError
from sepnas.partition.graph import NetworkTraits
from sepnas.plan.data import MAX_AXES, MAX_TENSOR_VALUES
from sepnas.spec.document import short

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FoundNetwork:
    """A module, or a program that was exported already. ``shapes`` are those of the inputs, without the batch.

    ``reference`` computes what a graph must compute, where that is not the module itself.
    """

    name: str
    source: str
    module: nn.Module | None = None
    program: ExportedProgram | None = None
    shapes: tuple[Shape, ...] = ()
    traits: NetworkTraits = field(default_factory=NetworkTraits)
    reference: Callable[..., object] | None = None

    @property
    def has_weights(self) -> bool:
        """Whether the network came with its weights."""
        return self.module is None or self.reference is not None


def parse_shape(text: str) -> Shape:
    """The shape of one sample of an input, such as ``3x224x224``; :class:`ImportFailedError` if it is none."""
    parts = text.replace(",", "x").split("x")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ImportFailedError(f"input shape {text!r}: {_WANTED}")
    return check_shape([int(part) for part in parts])


def check_shape(sizes: Sequence[int]) -> Shape:
    """The sizes as a shape; :class:`ImportFailedError` unless each is at least 1 and all are within the bounds."""
    positive = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
    if not positive or not 0 < len(sizes) < MAX_AXES or math.prod(sizes) > MAX_TENSOR_VALUES:
        raise ImportFailedError(f"input shape {short(list(sizes))}: {_WANTED}")
    return tuple(sizes)


_WANTED = (
    "give the sizes of one sample without the batch, such as 3x224x224; at most "
    f"{MAX_AXES - 1} axes and {MAX_TENSOR_VALUES:,} values"
)
