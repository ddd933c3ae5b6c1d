"""Converts the genes of an exchange point for a network of a given depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

from sepnas.errors import SpecError
from sepnas.separable.backbones.registry import stages_of
from sepnas.separable.patterns import Pairs, pattern_pairs, point
from sepnas.separable.policy import ExchangePoint, Readout, TransmissionPolicy
from sepnas.separable.space_parts import MAX_DEVICES_OF

GENES = ("pattern", "fraction", "wire", "lag")


@dataclass(frozen=True)
class Place:
    """An exchange point in a network of a given depth: its labels, its block, and whether that block ends a stage."""

    labels: tuple[str, ...]
    after: int
    ends_stage: bool

    @cached_property
    def genes(self) -> Callable[[Any], tuple[Any, ...]]:
        """A function that takes all genes of the place out of a genotype."""
        return itemgetter(*self.labels)


@lru_cache(maxsize=1024)
def make_places(backbone: str, points: tuple[int, ...], deepest: int, depth: int) -> tuple[Place, ...]:
    """The exchange points of the deepest network that a network of this depth also has."""
    whole, own = stages_of(backbone, deepest), stages_of(backbone, depth)
    found = []
    for place in points:
        stage, number = whole.place(place)
        if number < own.blocks[stage]:
            labels, block = tuple(f"point{place}.{gene}" for gene in GENES), own.block(stage, number)
            found.append(Place(labels, block, block in own.ends))
    return tuple(found)


def check_pattern(name: str, num_devices: int, where: str) -> None:
    if name in MAX_DEVICES_OF:
        if num_devices > MAX_DEVICES_OF[name]:
            raise SpecError(
                f"{where}: `{name}` serves up to {MAX_DEVICES_OF[name]} devices, here are {num_devices}; "
                f"name the {name} that you want"
            )
        return
    try:
        pattern_pairs(name, num_devices)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def readout_of(name: str, num_devices: int, where: str) -> Readout:
    kind, _, rank = name.partition(":")
    if name == "mean":
        return Readout(kind="mean")
    if kind != "device" or not rank.isdecimal() or int(rank) >= num_devices:
        raise SpecError(f"{where} is {name!r}; allowed: mean, device:R with R in 0..{num_devices - 1}")
    return Readout(kind="device", device=int(rank))


@lru_cache(maxsize=1024)
def pairs_of(name: str, num_devices: int) -> Pairs:
    return pattern_pairs(name, num_devices)


def make_point(
    block: int, num_devices: int, merge: Any, pattern: str, fraction: Any, wire: Any, lag: Any
) -> ExchangePoint:
    """An exchange point; points that differ only in block or merge share their transfers.

    Points are not cached: those of large spaces rarely recur, and would fill the memory.
    """
    return _first_point(num_devices, pattern, fraction, wire, lag).with_checked(after=block, merge=merge)


@lru_cache(maxsize=1 << 13)
def _first_point(num_devices: int, pattern: str, fraction: Any, wire: Any, lag: Any) -> ExchangePoint:
    return point(0, pairs_of(pattern, num_devices), fraction, wire, lag)


@lru_cache(maxsize=1024)
def silent_policy(name: str, readout: str, num_devices: int) -> TransmissionPolicy:
    """A policy that sends nothing, used as a template for copies."""
    return TransmissionPolicy(name=name, readout=readout_of(readout, num_devices, "`readout`"))
