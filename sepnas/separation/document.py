"""A separation as a document, ``sepnas.separation``: the device of each channel, and the messages that cross.

It names the imported network that it belongs to by the digest of its graph, in which wide layers behind a flattened
map are convolutions (:mod:`sepnas.separation.whole_maps`), and holds no weights. A message of ``k`` channels or
mixtures with ``v`` values each costs ``payload_bytes(k * v, wire)`` bytes in its format, ``4 k v`` in fp32; a
separation costs the sum over its messages.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph
from sepnas.plan.data import TensorName
from sepnas.plan.wire import WireFormat, payload_bytes
from sepnas.separation.atoms import TILED
from sepnas.separation.channels import ChannelMap
from sepnas.separation.demands import demands_of
from sepnas.separation.spaces import Placement, groupable
from sepnas.separation.tiled_layers import tiled_layers_until
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import MAX_CHANNELS, MAX_DEVICES, Index, NumDevices, Rank, Sha256, Text

SEPARATION_NAME, PLAN_NAME = "separation.json", "plan.json"
"""The files of a separated network beside its graph and weights."""
MAX_SPACES = 4096
MAX_MESSAGES = 100_000


class SpaceData(Part):
    """The device of each atom of a space, in the order of their channels; ``name`` is the first layer that makes some.

    An atom is a channel with all that are tied to it (:mod:`sepnas.separation.spaces`).
    """

    name: TensorName
    devices: Annotated[tuple[Rank, ...], Field(min_length=1, max_length=MAX_CHANNELS)]


class CrossingData(Part):
    """What ``source`` sends to ``destination`` of a tensor, the exchange point, in one message.

    It is the ``channels``, or a number of ``mixtures`` of them if that is not 0, in format ``wire``. Without a
    ``source``, each other device sends it of its tile.
    """

    tensor: TensorName
    source: Rank | None
    destination: Rank
    channels: Annotated[tuple[Index, ...], Field(min_length=1, max_length=MAX_CHANNELS)]
    mixtures: Annotated[int, Field(ge=0, lt=MAX_CHANNELS)] = 0
    wire: WireFormat

    @property
    def width(self) -> int:
        """The number of maps that the message holds."""
        return self.mixtures or len(self.channels)

    @model_validator(mode="after")
    def _is_a_message(self) -> Self:
        if self.source == self.destination:
            raise ValueError(f"`source` and `destination` are both device {self.source}")
        if any(a >= b for a, b in zip(self.channels, self.channels[1:], strict=False)):
            raise ValueError("`channels` must be in ascending order, each once")
        if self.mixtures >= len(self.channels):
            raise ValueError(f"`mixtures` {self.mixtures} must be fewer than the {len(self.channels)} channels")
        return self


class TilesData(Part):
    """The first layers, up to ``tensor``, which are in tiles, in proportion to ``shares`` of the devices."""

    tensor: TensorName
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1e30)], ...], Field(min_length=1, max_length=MAX_DEVICES)]


class Separation(Document):
    """The groups of a network's channels on ``num_devices`` devices, and the messages between these.

    ``network`` and ``graph`` are the name and the digest of what was separated. Device ``read_out`` answers.
    """

    format_name: ClassVar[str] = "sepnas.separation"
    current_version: ClassVar[int] = 1

    network: Text
    graph: Sha256
    num_devices: NumDevices
    read_out: Rank = 0
    tiles: TilesData | None = None
    spaces: Annotated[tuple[SpaceData, ...], Field(min_length=1, max_length=MAX_SPACES)]
    crossings: Annotated[tuple[CrossingData, ...], Field(max_length=MAX_MESSAGES)] = ()

    @model_validator(mode="after")
    def _has_its_devices(self) -> Self:
        ranks = {self.read_out, *(rank for space in self.spaces for rank in space.devices)}
        ranks |= {rank for each in self.crossings for rank in (each.source, each.destination) if rank is not None}
        if max(ranks) >= self.num_devices:
            raise ValueError(f"names device {max(ranks)} of {self.num_devices}")
        if self.tiles is not None and len(self.tiles.shares) != self.num_devices:
            raise ValueError(f"`tiles` has {len(self.tiles.shares)} shares for {self.num_devices} devices")
        keys = [(each.tensor, each.source, each.destination) for each in self.crossings]
        if len(set(keys)) != len(keys):
            raise ValueError("has two messages for one tensor from one device to another; there must be one")
        return self

    def placement(self, channels: ChannelMap) -> Placement:
        """The placement of a graph's channels; :class:`SpecError` if the separation is another network's."""
        if (found := digest_of(channels.graph)) != self.graph:
            raise SpecError(
                f"separation of network '{self.network}': its graph has the digest {self.graph[:12]}, the one given "
                f"({channels.graph.name}) {found[:12]}; separate this network again"
            )
        tiles = tiled_layers_until(channels, self.tiles.tensor, self.tiles.shares) if self.tiles else None
        spaces = groupable(channels, self.num_devices, tiles)
        if [(each.name, len(each.atoms)) for each in spaces] != [(s.name, len(s.devices)) for s in self.spaces]:
            raise SpecError(f"separation of network '{self.network}': `spaces` are not those of this network")
        placement = Placement.of(
            channels, self.num_devices, self.read_out, spaces, [space.devices for space in self.spaces]
        )
        placement = placement.tiled(tiles) if tiles else placement
        self._check_crossings(placement)
        return placement

    def _check_crossings(self, placement: Placement) -> None:
        demanded = {(each.tensor, each.device) for each in demands_of(placement)}
        for each in self.crossings:
            where = f"separation of network '{self.network}': `crossings`: tensor '{each.tensor}'"
            if (each.tensor, each.destination) not in demanded:
                raise SpecError(f"{where} is sent to device {each.destination}, which needs nothing of it")
            devices = placement.of_tensor(each.tensor)
            source = TILED if each.source is None else each.source
            strange = [c for c in each.channels if c >= len(devices) or devices[c] != source]
            if strange:
                sender = "the tiles, which are sent" if each.source is None else f"device {source}, which sends it"
                raise SpecError(f"{where}: channel {strange[0]} is not one of {sender}")

    def exchange_points(self, placement: Placement) -> frozenset[str]:
        """The tensors that devices exchange, without those that they need whole."""
        open_ = {(each.tensor, each.device) for each in demands_of(placement) if not each.is_fixed}
        return frozenset(each.tensor for each in self.crossings if (each.tensor, each.destination) in open_)

    def payload_bytes(self, placement: Placement) -> int:
        """Bytes of all messages between devices, for one sample."""
        return sum(bytes_of(each, placement) for each in self.crossings)


def is_separated(folder: Path) -> bool:
    """Whether the folder of a network is that of a separated one."""
    return (folder / SEPARATION_NAME).is_file()


def bytes_of(crossing: CrossingData, placement: Placement) -> int:
    """Bytes of a message for one sample; of those of all tiles, if it has no single source."""
    values = placement.message_values(crossing.tensor, crossing.source, crossing.destination)
    return sum(payload_bytes(crossing.width * each, crossing.wire) for each in values)


def digest_of(graph: Graph) -> str:
    """The SHA-256 of a graph's content, whatever its file looks like."""
    return hashlib.sha256(json.dumps(graph.to_data(), sort_keys=True).encode()).hexdigest()
