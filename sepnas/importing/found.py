"""A network that was found, before it is traced."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.export import ExportedProgram

from sepnas.errors import ImportFailedError
from sepnas.partition.graph import NetworkTraits
from sepnas.plan.data import MAX_AXES, MAX_TENSOR_VALUES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FoundNetwork:
    """A module, or a program that was exported already. ``shapes`` are those of the inputs, without the batch."""

    name: str
    source: str
    module: nn.Module | None = None
    program: ExportedProgram | None = None
    shapes: tuple[Shape, ...] = ()
    traits: NetworkTraits = field(default_factory=NetworkTraits)


def parse_shape(text: str) -> Shape:
    """The shape of one sample of an input, such as ``3x224x224``; :class:`ImportFailedError` if it is none."""
    parts = text.replace(",", "x").split("x")
    sizes = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
    total = 1
    for size in sizes:
        total *= size
    if len(sizes) >= MAX_AXES or not 0 < total <= MAX_TENSOR_VALUES:
        raise ImportFailedError(
            f"input shape {text!r}: give the sizes of one sample without the batch, such as 3x224x224; at most "
            f"{MAX_AXES - 1} axes and {MAX_TENSOR_VALUES:,} values"
        )
    return tuple(sizes)
