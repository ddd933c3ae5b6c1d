"""Folds long networks: consecutive layers with the same layout become one group, and repeated groups a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sepnas.report.plan_map.layers import MappedLayer
from sepnas.report.plan_map.tiles import View, boxes_of
from sepnas.report.plan_map.values import Box

T = TypeVar("T")
TOLERANCE = 0.1
"""Borders that differ by less, relative to the whole axis, are the same: sizes are whole, and halos widen parts."""
MAX_PERIOD = 12


@dataclass(frozen=True, slots=True)
class Laid:
    """A layer, how it is drawn, and the part of each device on the unit square."""

    layer: MappedLayer
    view: View
    axes: str
    boxes: tuple[tuple[Box, int], ...]

    @staticmethod
    def of(layer: MappedLayer, view: View, axes: str) -> Laid:
        return Laid(layer, view, axes, tuple(boxes_of(layer, view)))

    @property
    def is_part(self) -> bool:
        """Whether each device has a layer of its own, as in a separable network; its exchanges are never folded."""
        return not self.layer.dims

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is cut."""
        return not self.layer.partial and self.view.across is None and self.view.down is None


Group = tuple[Laid, ...]


def groups_of(laid: Sequence[Laid], receiving: Collection[str]) -> list[Group]:
    """Consecutive layers of one layout; a part of a network on each device also ends where it receives messages."""
    found: list[list[Laid]] = []
    for each in laid:
        starts = not found or not belongs(found[-1][-1], each)
        if starts or (each.is_part and each.layer.name in receiving):
            found.append([each])
        else:
            found[-1].append(each)
    return [tuple(group) for group in found]


def belongs(last: Laid, each: Laid) -> bool:
    """Whether a layer continues a group: laid out alike, on maps of the same size unless they are whole."""
    return _alike(last, each) and (each.is_whole or _extent(last) == _extent(each))


def _extent(each: Laid) -> tuple[int, ...]:
    """The sizes of the axes besides samples and channels."""
    return tuple(size for size, letter in zip(each.layer.dims, each.axes, strict=True) if letter not in "NC")


def _alike(one: Laid, other: Laid) -> bool:
    """Whether the same devices have nearly the same parts of two layers."""
    if one.layer.partial != other.layer.partial or one.layer.devices != other.layer.devices:
        return False
    words = (one.view.across_word, one.view.down_word), (other.view.across_word, other.view.down_word)
    if words[0] != words[1] or len(one.boxes) != len(other.boxes):
        return False
    return all(
        abs(a - b) <= TOLERANCE
        for (box, _), (near, _) in zip(one.boxes, other.boxes, strict=True)
        for a, b in zip(box, near, strict=True)
    )


def repeats(items: Sequence[T], same: Callable[[T, T], bool]) -> Iterator[tuple[list[list[T]], int]]:
    """Runs of items: the members of each place of a repeated stretch, and how often it is repeated in sequence.

    ``A B C B C B C D`` gives ``[A] x 1``, ``[B B B], [C C C] x 3`` and ``[D] x 1``.
    """
    at = 0
    while at < len(items):
        period, times = max(
            ((period, _times(items, at, period, same)) for period in range(1, MAX_PERIOD + 1)),
            key=lambda found: (found[0] * found[1] if found[1] > 1 else 1, -found[0]),
        )
        period = period if times > 1 else 1
        yield [[items[at + turn * period + place] for turn in range(times)] for place in range(period)], times
        at += period * times


def _times(items: Sequence[T], at: int, period: int, same: Callable[[T, T], bool]) -> int:
    times = 1
    while at + (times + 1) * period <= len(items) and all(
        same(items[at + place], items[at + times * period + place]) for place in range(period)
    ):
        times += 1
    return times
