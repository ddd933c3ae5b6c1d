"""What a session answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import DataError
from sepnas.runtime.tensors.codec import Array

Outputs: TypeAlias = Array | Mapping[str, Array]
"""The output of a network that has one; otherwise its outputs by name. Each has the samples along its first axis."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Message ``tag`` from device ``source``, which ``device`` went on without."""

    device: int
    source: int
    tag: int


@dataclass(frozen=True)
class Answer:
    """The outputs of a batch by name, each ``(B, *shape)`` float32, and what is missing in them.

    ``scores`` names the output that holds class scores, if there is one. ``missing``: messages that were late or lost.
    ``without``: devices that took no part, or whose part of an output did not come. ``complete``: it is the whole
    network's answer. An incomplete answer may name neither, if the device that knew was lost too.
    """

    outputs: Mapping[str, Array]
    scores: str | None = None
    complete: bool = True
    missing: tuple[Missing, ...] = ()
    without: tuple[int, ...] = ()

    @property
    def logits(self) -> Array:
        """The class scores ``(B, classes)``; raises :class:`DataError` if the network names no classes."""
        if self.scores is None:
            raise DataError(f"this network names no classes; its outputs are {', '.join(self.outputs)}")
        return self.outputs[self.scores]

    @property
    def result(self) -> Outputs:
        """The output if there is one, otherwise all by name."""
        return next(iter(self.outputs.values())) if len(self.outputs) == 1 else self.outputs
