"""Indexing by tables that are known at import, as slices that are joined, of which devices compute regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MAX_SLICES = 64
"""Of one axis; a table of more runs of places is kept whole."""


@dataclass(frozen=True)
class Run:
    """Places from ``start``, ``step`` apart, before ``end``."""

    start: int
    end: int
    step: int


def runs_of_tables(tables: Mapping[int, Tensor], dims: Sequence[int]) -> dict[int, list[Run]] | None:
    """The runs of places that tables pick along each axis of a tensor; all picked are one result after a reshape.

    None if that is not so: the tables' axes are not neighbours, they pick samples, their places depend on each other
    (such as a diagonal), or they have too many runs.
    """
    axes = sorted(tables)
    neighbours = all(second == first + 1 for first, second in pairwise(axes))
    if not axes or axes[0] == 0 or not neighbours or any(each.dtype not in _INTEGERS for each in tables.values()):
        return None
    rank = max(each.dim() for each in tables.values())
    own = [_own_axes(tables[axis], rank) for axis in axes]
    if any(first and second and first[-1] >= second[0] for first, second in pairwise([each for each in own if each])):
        return None
    found = {}
    for axis in axes:
        places = [int(place) % dims[axis] for place in tables[axis].flatten()]
        found[axis] = list(_runs(places))
    return found if all(len(runs) <= MAX_SLICES for runs in found.values()) else None


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)


def _own_axes(table: Tensor, rank: int) -> list[int]:
    """The axes of the tables' common shape along which this one has several places."""
    return [rank - table.dim() + axis for axis, size in enumerate(table.shape) if size > 1]


def _runs(places: Sequence[int]) -> Iterator[Run]:
    """The places in order, as few runs of rising places with equal steps as one finds from the first on."""
    start = 0
    while start < len(places):
        stop, step = start + 1, 1
        if stop < len(places) and places[stop] > places[start]:
            step = places[stop] - places[start]
            while stop < len(places) and places[stop] - places[stop - 1] == step:
                stop += 1
        yield Run(places[start], places[stop - 1] + 1, step)
        start = stop
