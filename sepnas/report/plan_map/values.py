"""The map of a plan as plain values: cards with tiles on the unit square, and the bytes that arrive for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
"""``(left, top, right, bottom)`` on the unit square."""
Form = Literal["map", "vector", "parts"]
"""A feature map or a matrix, a vector, or a network of its own on each device."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a layer's output; several devices compute it alike, or each a share of its sums."""

    box: Box
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Halo:
    """A part of a layer's input that a device lacks, and receives."""

    box: Box
    device: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Payload bytes of messages by sender and receiver; rank -1 is the client."""

    nbytes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    messages: int = 0

    @property
    def total_bytes(self) -> int:
        return sum(self.nbytes.values())

    def with_message(self, source: int, destination: int, nbytes: int) -> Flow:
        before = self.nbytes.get((source, destination), 0)
        return Flow({**self.nbytes, (source, destination): before + nbytes}, self.messages + 1)

    def __add__(self, other: Flow) -> Flow:
        both = dict(self.nbytes)
        for way, nbytes in other.nbytes.items():
            both[way] = both.get(way, 0) + nbytes
        return Flow(both, self.messages + other.messages)


@dataclass(frozen=True, slots=True)
class Card:
    """Consecutive layers that are laid out alike, with what arrives for them.

    ``layers`` are those of the first repeat, ``num_layers`` counts all. ``macs`` has one number for each device, or
    none where the plan does not say. ``across`` and ``down`` name the axes that are cut, in that direction of the
    picture. ``partial``: each tile is a share of the terms of all sums.
    """

    layers: tuple[str, ...]
    num_layers: int
    form: Form
    shape: str
    across: str
    down: str
    tiles: tuple[Tile, ...]
    halos: tuple[Halo, ...] = ()
    partial: bool = False
    macs: tuple[int, ...] = ()
    network_macs: int = 0
    incoming: Flow = field(default_factory=Flow)

    @property
    def cut(self) -> str:
        """How the layers are divided, in a few words."""
        if self.form == "parts":
            return "on one device" if len(self.tiles) == 1 else f"{len(self.tiles)} parts"
        names = [name for name in (self.down, self.across) if name]
        if self.partial:
            return f"sums over {' and '.join(names)}"
        if names:
            return " and ".join(names)
        devices = {device for tile in self.tiles for device in tile.devices}
        return "whole" if len(devices) == 1 else "whole, on each"

    @property
    def repeated_macs(self) -> int:
        """The multiply-accumulates beyond those of the network: those that several devices carry out alike."""
        return max(0, sum(self.macs) - self.network_macs)


@dataclass(frozen=True, slots=True)
class CardRun:
    """Cards in order; ``times`` is how often the network repeats them. Their numbers are of all repeats together."""

    cards: tuple[Card, ...]
    times: int = 1


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """All that one device does for one sample."""

    name: str
    macs: int
    weight_bytes: int
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class PlanMap:
    """The whole map; ``answer`` is what is sent to gather the outputs, and to the client."""

    slug: str
    title: str
    lead: str
    devices: tuple[DeviceShare, ...]
    runs: tuple[CardRun, ...]
    answer: Flow
    network_macs: int

    @property
    def cards(self) -> tuple[Card, ...]:
        return tuple(card for run in self.runs for card in run.cards)
