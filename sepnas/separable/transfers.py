"""The transfers of a policy as steps, by the block that they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sepnas.plan.merge_rules import STRENGTH
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import Recv, Send
from sepnas.separable.layers import PartTable
from sepnas.separable.policy import Transfer, TransmissionPolicy


@dataclass(frozen=True, slots=True)
class Crossing:
    """A transfer as the steps of both its ends; ``shape`` is that of the received tensor."""

    transfer: Transfer
    tag: int
    source: int
    destination: int
    lag: int
    send: Send
    recv: Recv
    shape: Shape


class PointCrossings(NamedTuple):
    """The transfers after a block, in the order of the policy, which is the merge order.

    ``strength`` is that of the point's merge rule.
    """

    block: int
    crossings: Sequence[Crossing]
    strength: int


class Event(NamedTuple):
    """The exchanges after a block: sends, then merges of late messages (of the point before) and its own prompt ones.

    ``sends`` are in posting order; messages are merged in the given order, late ones first.
    """

    block: int
    sends: Sequence[Crossing] = ()
    late: Sequence[Crossing] = ()
    prompt: Sequence[Crossing] = ()
    late_strength: int = 0
    prompt_strength: int = 0


_by_tag = attrgetter("tag")


def crossings_of(policy: TransmissionPolicy, parts: tuple[PartTable, ...]) -> list[PointCrossings]:
    """The exchange points of a policy over the parts of a network."""
    blocks = network_crossings(parts)
    return [
        PointCrossings(point.after, blocks[point.after].of(point.transfers), STRENGTH[point.merge])
        for point in policy.points
    ]


def live_crossings(
    points: list[PointCrossings], readers: Sequence[int], num_devices: int
) -> tuple[list[PointCrossings], set[int]]:
    """The live exchange points, and the ranks whose work the logits of ``readers`` need.

    Walks from the last block to the first. Before a block where every rank is needed, everything is live.
    """
    needed, found = set(readers), list[PointCrossings]()
    next_block, needed_after_next = -1, needed
    left = list(points)
    while left:
        block, crossings, strength = left[-1]
        # late messages are merged after the next block, once the sends of its own point are posted
        needed_late = needed_after_next if next_block == block + 1 else needed
        if len(needed_late) == num_devices:
            break
        kept = [c for c in crossings if c.destination in (needed_late if c.lag else needed)]
        next_block, needed_after_next = block, needed
        needed = needed.union([c.source for c in kept])
        found.append(PointCrossings(block, kept, strength))
        left.pop()
    return left + found[::-1], needed


def events_of(points: list[PointCrossings]) -> list[Event]:
    """The events in order of their blocks, without blocks after which nothing happens."""
    events: list[Event] = []
    late: list[Crossing] = []
    late_block, late_strength = -1, 0
    for block, crossings, strength in points:
        if late and late_block < block:
            events.append(Event(late_block, late=late, late_strength=late_strength))
            late = []
        prompt = [crossing for crossing in crossings if not crossing.lag]
        events.append(Event(block, sorted(crossings, key=_by_tag), late, prompt, late_strength, strength))
        late = [crossing for crossing in crossings if crossing.lag]
        late_block, late_strength = block + 1, strength
    if late:
        events.append(Event(late_block, late=late, late_strength=late_strength))
    return events


class BlockCrossings(dict[Transfer, Crossing]):
    """The transfers after one block, each built once: a search uses the same few again and again."""

    MAX_KEPT = 1 << 12

    def __init__(self, block: int, outputs: tuple[Shape, ...]) -> None:
        """``outputs`` are the shapes of the ranks' block outputs."""
        super().__init__()
        self.block, self.outputs = block, outputs
        self.tensor = f"b{block}"
        self._by_id: dict[int, Crossing] = {}

    def of(self, transfers: Sequence[Transfer]) -> list[Crossing]:
        """The crossings of some transfers, looked up by identity first: hashing a transfer takes longer."""
        kept = self._by_id
        try:
            return [kept[id(transfer)] for transfer in transfers]
        except KeyError:
            found = [self[transfer] for transfer in transfers]
        for transfer, crossing in zip(transfers, found, strict=True):
            if crossing.transfer is transfer:  # which it keeps alive, so that no other object gets its id
                kept[id(transfer)] = crossing
        return found

    def __missing__(self, transfer: Transfer) -> Crossing:
        source, destination = transfer.source, transfer.destination
        own, others = self.outputs[source].dims, self.outputs[destination].dims
        tag = transfer_tag(self.block, transfer, len(self.outputs))
        num_channels = transfer.num_channels(own[0], others[0])
        scale = transfer.scale_name(self.block)
        send = Send(self.tensor, _region(num_channels, *own[1:]), transfer.wire, destination, tag, scale)
        arriving = Shape.chw(num_channels, *own[1:])
        made = Crossing(transfer, tag, source, destination, transfer.lag, send, _recv(tag, source), arriving)
        if len(self) >= self.MAX_KEPT:
            self.clear()
            self._by_id.clear()
        self[transfer] = made
        return made


# Equal parts of crossings share one object: fewer objects fit better into the processor's caches.


@lru_cache(maxsize=1 << 12)
def _region(*dims: int) -> Region:
    return Region(tuple([(0, size) for size in dims]))


@lru_cache(maxsize=1 << 14)
def _recv(tag: int, source: int) -> Recv:
    return Recv(tag, source, f"r{tag}")


@lru_cache(maxsize=1024)
def network_crossings(parts: tuple[PartTable, ...]) -> list[BlockCrossings]:
    """The transfers of a network built so far, by block."""
    outputs = list(zip(*[part.outputs for part in parts], strict=True))
    return [_block_crossings(block, shapes) for block, shapes in enumerate(outputs[1:-1])]  # between stem and head


@lru_cache(maxsize=256)
def _block_crossings(block: int, outputs: tuple[Shape, ...]) -> BlockCrossings:
    """The transfers after a block; networks with the same block output shapes share them."""
    return BlockCrossings(block, outputs)


def transfer_tag(block: int, transfer: Transfer, num_devices: int) -> int:
    """The tag of a transfer after a block.

    Points in order; within a point, awaited messages (lag 0) first, then by shift: no two senders share a receiver.

    Tags below ``num_devices`` are the client's inputs. A tag depends only on its transfer.
    """
    shift = (transfer.destination - transfer.source) % num_devices
    turn = (2 * block + transfer.lag) * num_devices + shift
    return num_devices * (1 + turn) + transfer.source
