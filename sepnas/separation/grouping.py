"""Groups the channels of a network over devices such that the weights between groups matter least.

All importances between two spaces are one matrix. Given the groups of all other spaces, the best groups of one space
are those whose atoms gain most in all (:mod:`sepnas.separation.dealing`); the spaces are taken in turn until nothing
improves. Several starts are tried, and the best one is kept: the first is a spectral clustering, the second gives the
atoms out in order, more are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.separation.atoms import Labels
from sepnas.separation.channels import ChannelMap
from sepnas.separation.dealing import dealt
from sepnas.separation.importance import Importance
from sepnas.separation.spaces import Placement, Space
from sepnas.separation.spectral import Between, spectral_start
from sepnas.separation.statistics import Array
from sepnas.separation.tiled_layers import TiledLayers

MAX_ROUNDS = 30
_LEAST_GAIN = 1e-3
"""Rounds end when the importance within groups grows by less, as a share of itself."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """The device of each atom, by space, and the share of importance that lies within groups (0..1)."""

    spaces: tuple[Space, ...]
    devices: tuple[Labels, ...]
    within: float


def group(
    channels: ChannelMap,
    spaces: Sequence[Space],
    importance: Importance,
    shares: Sequence[float],
    *,
    seed: int = 0,
    starts: int = 2,
) -> Grouping:
    """Deal out the atoms of each space in proportion to ``shares`` of the devices; the same seed gives the same groups.

    Raises :class:`SpecError` unless there is a positive share for each device.
    """
    if not all(0 < share < np.inf for share in shares):
        raise SpecError(f"`shares` must be a positive number for each device, got {list(shares)}")
    between = _between(channels, spaces, importance)
    sizes = [slots(len(space.atoms), shares) for space in spaces]
    generator = np.random.default_rng(seed)
    best: tuple[float, list[Labels]] | None = None
    for start in range(starts):
        found = [np.repeat(np.arange(len(shares)), each) for each in sizes]
        if start == 0:
            found = spectral_start(between, sizes, generator)
        elif start > 1:
            found = [generator.permutation(each) for each in found]
        value = _improve(between, found, sizes)
        if best is None or value > best[0]:
            best = value, found
    assert best is not None
    total = sum(float(matrix.sum()) for matrix in between.values())
    return Grouping(tuple(spaces), tuple(best[1]), best[0] / total if total else 1.0)


def slots(count: int, shares: Sequence[float]) -> list[int]:
    """How many of ``count`` atoms each device gets: in proportion to its share, and at least one."""
    spare = count - len(shares)
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * count
    wanted = np.maximum(exact - 1, 0)
    wanted *= spare / wanted.sum() if wanted.sum() else 0
    found = np.floor(wanted).astype(int)
    order = np.argsort(-(wanted - found), kind="stable")
    found[np.resize(order, spare - int(found.sum()))] += 1
    return [1 + int(each) for each in found]


_Pair = tuple[int, int]


def _between(
    channels: ChannelMap, spaces: Sequence[Space], importance: Importance
) -> dict[_Pair, npt.NDArray[np.float64]]:
    """The importance of each atom of a space (columns) for each of another (rows), added up over all layers."""
    space_of = np.full(channels.num_atoms + 1, -1)
    place_of = np.zeros(channels.num_atoms + 1, dtype=np.int64)
    for index, space in enumerate(spaces):
        space_of[list(space.atoms)] = index
        place_of[list(space.atoms)] = np.arange(len(space.atoms))
    found: dict[_Pair, npt.NDArray[np.float64]] = {}
    for name, layer in channels.mixing.items():
        rows, columns = channels.labels(layer.output), channels.labels(layer.operand)
        for target in set(space_of[rows].tolist()) - {-1}:
            for source in set(space_of[columns].tolist()) - {-1}:
                _add(found, (target, source), spaces, space_of, place_of, importance[name], rows, columns)
    return found


def _add(
    found: dict[_Pair, npt.NDArray[np.float64]],
    pair: _Pair,
    spaces: Sequence[Space],
    space_of: Labels,
    place_of: Labels,
    matrix: Array,
    rows: Labels,
    columns: Labels,
) -> None:
    target, source = pair
    total = found.setdefault(pair, np.zeros((len(spaces[target].atoms), len(spaces[source].atoms))))
    a, b = np.flatnonzero(space_of[rows] == target), np.flatnonzero(space_of[columns] == source)
    by_row = np.zeros((total.shape[0], len(b)))
    np.add.at(by_row, place_of[rows[a]], matrix[np.ix_(a, b)])
    by_column = np.zeros((total.shape[1], total.shape[0]))
    np.add.at(by_column, place_of[columns[b]], by_row.T)
    total += by_column.T


def _improve(between: Between, devices: list[Labels], sizes: Sequence[Sequence[int]]) -> float:
    """Improve the groups in place, one space after the other; returns the importance within groups."""
    count, value, near = len(sizes[0]), _within(between, devices), _neighbours(between, len(sizes))
    left = set(range(len(sizes)))
    """Spaces whose neighbours changed since they were assigned."""
    for _ in range(MAX_ROUNDS):
        before = value
        for space in sorted(left):
            old = devices[space]
            devices[space] = dealt(_gains(between, devices, space, count), sizes[space], old)
            if (space, space) in between:  # its own pairs were taken as they were before
                changed = _within(between, devices)
                devices[space] = devices[space] if changed > value else old
                value = max(value, changed)
            left.discard(space)
            if (devices[space] != old).any():
                left |= near[space]
                value = _within(between, devices)
        if value - before <= _LEAST_GAIN * value:
            break
    return value


def _neighbours(between: Between, count: int) -> list[set[int]]:
    """The spaces with which each space shares a layer, itself among them if one layer mixes it with itself."""
    found: list[set[int]] = [set() for _ in range(count)]
    for target, source in between:
        found[target].add(source)
        found[source].add(target)
    return found


def _gains(between: Between, devices: list[Labels], space: int, count: int) -> npt.NDArray[np.float64]:
    """The importance within groups that each atom of a space brings on each device, (atoms, devices)."""
    gains = np.zeros((len(devices[space]), count))
    one_hot = np.eye(count)
    for (target, source), matrix in between.items():
        if target == space:
            gains += matrix @ one_hot[devices[source]]
        if source == space:
            gains += matrix.T @ one_hot[devices[target]]
    return gains


def _within(between: Between, devices: list[Labels]) -> float:
    """The importance within groups."""
    one_hot = np.eye(1 + max(int(each.max()) for each in devices))
    found = 0.0
    for (target, source), matrix in between.items():
        by_device = matrix @ one_hot[devices[source]]
        found += float(np.take_along_axis(by_device, devices[target][:, None], axis=1).sum())
    return found


def placed(
    channels: ChannelMap, grouping: Grouping, num_devices: int, read_out: int = 0, tiles: TiledLayers | None = None
) -> Placement:
    """The placement of a grouping, behind tiled layers."""
    devices = [each.tolist() for each in grouping.devices]
    found = Placement.of(channels, num_devices, read_out, grouping.spaces, devices)
    return found if tiles is None else found.tiled(tiles)
