"""Spaces: the channels that layers make, in sets that must be grouped together; and where a grouping places them.

A space has the atoms of what one mixing layer makes, and of all layers whose channels are tied to these: those that are
added in residual blocks, or scaled by a gate. Its atoms are dealt out to the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sepnas.errors import PlanError
from sepnas.separation.atoms import EVERYWHERE, READ_OUT, TILED, Labels
from sepnas.separation.channels import ChannelMap, Folded
from sepnas.separation.tiled_layers import TiledLayers


@dataclass(frozen=True)
class Space:
    """Atoms that are dealt out to devices together. ``name`` is the first layer that makes some of them."""

    name: str
    atoms: tuple[int, ...]


def spaces_of(channels: ChannelMap) -> tuple[Space, ...]:
    """The spaces of a graph, in the order of its layers; what lies on the read-out device is in none."""
    found: dict[str, set[int]] = {}
    for name, layer in channels.mixing.items():
        own = set(channels.labels(layer.output).tolist()) - {READ_OUT, EVERYWHERE}
        near = [first for first, atoms in found.items() if not own.isdisjoint(atoms)]
        if own:
            found[near[0] if near else name] = own.union(*(found[first] for first in near))
        for other in near[1:]:
            del found[other]
    return tuple(Space(name, tuple(sorted(atoms))) for name, atoms in found.items())


def groupable(channels: ChannelMap, num_devices: int, tiles: TiledLayers | None = None) -> tuple[Space, ...]:
    """The spaces behind tiled layers with at least one atom for each device; others are computed by each device.

    Raises :class:`PlanError` if there is none.
    """
    in_tiles = frozenset() if tiles is None else tiles.atoms
    spaces = [space for space in spaces_of(channels) if in_tiles.isdisjoint(space.atoms)]
    found = tuple(space for space in spaces if len(space.atoms) >= num_devices)
    if not found:
        largest = max(spaces, key=lambda space: len(space.atoms), default=None)
        most = f"layer '{largest.name}' has most, {len(largest.atoms)}" if largest else "no layer mixes channels"
        behind = f" behind the tiles, which end with '{tiles.tensor}'" if tiles else ""
        raise PlanError(
            f"network '{channels.graph.name}': too few channels for {num_devices} devices{behind}: {most}; channels of "
            "one group of a convolution count once"
        )
    return found


@dataclass(frozen=True, eq=False)
class Placement:
    """The device of each atom of a graph: ``devices`` by the atom's number; the last entry stands for everywhere.

    Atoms with :data:`EVERYWHERE` lie on each device, those of ``tiles`` in tiles.
    """

    channels: ChannelMap
    num_devices: int
    read_out: int
    devices: Labels
    tiles: TiledLayers | None = None

    @staticmethod
    def of(
        channels: ChannelMap, num_devices: int, read_out: int, spaces: Sequence[Space], devices: Sequence[Sequence[int]]
    ) -> Placement:
        """The placement of spaces, given the device of each of their atoms; other spaces are on each device."""
        found = np.full(channels.num_atoms + 1, EVERYWHERE, dtype=np.int64)
        found[READ_OUT] = read_out
        for space, each in zip(spaces, devices, strict=True):
            found[list(space.atoms)] = each
        return Placement(channels, num_devices, read_out, found)

    def tiled(self, tiles: TiledLayers) -> Placement:
        """The same behind tiled layers."""
        devices = self.devices.copy()
        devices[list(tiles.atoms)] = TILED
        return replace(self, devices=devices, tiles=tiles)

    def of_tensor(self, tensor: str) -> Labels:
        """The device of each channel of a tensor."""
        return self.devices[self.channels.labels(tensor)]

    def own(self, tensor: str, device: int) -> Labels:
        """The channels of a tensor that a device has itself."""
        found = self.of_tensor(tensor)
        return np.flatnonzero((found == device) | (found == EVERYWHERE))

    def computing(self, tensor: str) -> tuple[int, ...]:
        """The devices that have channels of a tensor; none if it is in tiles."""
        found = set(self.of_tensor(tensor).tolist())
        if TILED in found:
            return ()
        return tuple(range(self.num_devices)) if EVERYWHERE in found else tuple(sorted(found))

    def message_values(self, tensor: str, source: int | None, destination: int) -> tuple[int, ...]:
        """The values of one channel in each message from a device, or from each other one its tile."""
        if source is not None:
            return (self.channel_values[tensor],)
        assert self.tiles is not None
        return tuple(v for rank, v in enumerate(self.tiles.tile_values) if rank != destination and v)

    @cached_property
    def channel_values(self) -> dict[str, int]:
        """The values of one channel of each tensor, for one sample."""
        graph = self.channels.graph
        found = {}
        for name, each in self.channels.tensors.items():
            base = each.base if isinstance(each, Folded) else name
            dims = graph.tensors[base].dims
            found[name] = int(np.prod(dims)) // max(1, dims[self.channels.axis(base)]) if dims else 1
        return found
