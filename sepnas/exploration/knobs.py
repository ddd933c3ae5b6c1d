"""The knobs of `sepnas separate` that an exploration turns, and their choices for a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sepnas.errors import SepnasError
from sepnas.importing.separator import Separator
from sepnas.separable.space import Choice, Genotype
from sepnas.separation.demands import demands_of
from sepnas.separation.spaces import groupable
from sepnas.separation.thinning import ANY, AUTO, FEW, Messages
from sepnas.separation.tiled_layers import NO_TILES, tile_ends

TILES_UNTIL, EXCHANGE_POINTS, BUDGET, WIRE, MESSAGES = "tiles_until", "exchange_points", "budget", "wire", "messages"
KNOBS = TILES_UNTIL, EXCHANGE_POINTS, BUDGET, WIRE, MESSAGES
ALL_POINTS = "all"
POINTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
BUDGETS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares of the bytes of the exact split; with 0 only what must be sent is."""
WIRES = (AUTO, "int8", "int4")


@dataclass(frozen=True)
class Knobs:
    """One setting of the knobs; see ``sepnas separate``. ``exchange_points`` None: any number of them."""

    tiles_until: str
    exchange_points: int | None
    budget: float
    wire: str
    messages: Messages

    @classmethod
    def of(cls, genotype: Genotype) -> Knobs:
        """The knobs of a genotype; raises ``ValueError`` for a damaged one."""
        tiles, points, budget, wire, messages = (genotype.get(name) for name in KNOBS)
        count = None if points == ALL_POINTS else points
        if set(genotype) != set(KNOBS) or not (
            isinstance(tiles, str)
            and (count is None or isinstance(count, int))
            and isinstance(budget, float)
            and isinstance(wire, str)
            and messages in (ANY, FEW)
        ):
            raise ValueError(f"`genotype` is none of an exploration: {dict(genotype)!r:.200}")
        return cls(tiles, count, budget, wire, FEW if messages == FEW else ANY)

    def genotype(self) -> dict[str, Choice]:
        points = ALL_POINTS if self.exchange_points is None else self.exchange_points
        return {
            TILES_UNTIL: self.tiles_until, EXCHANGE_POINTS: points, BUDGET: self.budget, WIRE: self.wire,
            MESSAGES: self.messages,
        }  # fmt: skip

    def arguments(self) -> dict[str, Any]:
        """As :func:`sepnas.api.separate` takes them."""
        return {
            "tiles_until": self.tiles_until, "exchange_points": self.exchange_points, "budget": self.budget,
            "wire": self.wire, "messages": self.messages,
        }  # fmt: skip

    def options(self) -> tuple[str, ...]:
        """As `sepnas separate` takes them."""
        points = () if self.exchange_points is None else ("--points", str(self.exchange_points))
        return (
            "--tiles-until",
            self.tiles_until,
            *points,
            "--bytes",
            share_text(self.budget),
            "--wire",
            self.wire,
            "--messages",
            self.messages,
        )


def share_text(share: float) -> str:
    """``0.002`` as ``0.2%``."""
    return f"{100 * share:.10g}%"


def choices_of(of: Separator) -> Mapping[str, tuple[Choice, ...]]:
    """The choices of each knob for a network and its devices.

    Every end is a choice of its own: with each at least one layer more is in tiles than with the one before.
    """
    points = number_of_points(of)
    return MappingProxyType(
        {
            TILES_UNTIL: (NO_TILES, *possible_ends(of)),
            EXCHANGE_POINTS: (*(count for count in POINTS if count < points), ALL_POINTS),
            BUDGET: BUDGETS,
            WIRE: WIRES,
            MESSAGES: (ANY, FEW),
        }
    )


def number_of_points(of: Separator) -> int:
    """The number of tensors that devices may exchange, without tiles."""
    return len({each.tensor for each in demands_of(of.placement(None)) if not each.is_fixed})


def possible_ends(of: Separator) -> tuple[str, ...]:
    """The tensors with which tiles may end: each device has a tile, and enough channels are left behind it."""
    found = []
    for tensor in tile_ends(of.channels):
        try:
            tiles = of.tiles(tensor)
            groupable(of.channels, len(of.shares), tiles)
        except SepnasError:
            continue
        if all(tiles.tile_values):
            found.append(tensor)
    return tuple(found)
