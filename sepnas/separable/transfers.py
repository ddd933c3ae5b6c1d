"""The transfers of a policy as steps, by the block after which they happen."""

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
    """A transfer as the steps of both its ends; ``shape`` is that of what arrives."""

    tag: int
    source: int
    destination: int
    lag: int
    send: Send
    recv: Recv
    shape: Shape


class PointCrossings(NamedTuple):
    """What is sent after a block, in the order of the policy, which is that of merging.

    ``strength`` is that of the point's merge rule.
    """

    block: int
    crossings: Sequence[Crossing]
    strength: int


class Event(NamedTuple):
    """What happens after a block: sends, then merges of what comes late from the point before and of its own.

    ``sends`` stand in the order of posting; what arrives is merged in the order given, what comes late first.
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
        PointCrossings(point.after, list(map(blocks[point.after].__getitem__, point.transfers)), STRENGTH[point.merge])
        for point in policy.points
    ]


def live_crossings(
    points: list[PointCrossings], readers: Sequence[int], num_devices: int
) -> tuple[list[PointCrossings], set[int]]:
    """The same without what cannot reach the logits of ``readers``, and the ranks that work towards these.

    Walked from the last block to the first. Where every rank is needed, everything before lives.
    """
    needed, found = set(readers), list[PointCrossings]()
    next_block, needed_after_next = -1, needed
    left = list(points)
    while left:
        block, crossings, strength = left[-1]
        # what comes late is merged after the next block, where the sends of its own point came before
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
    """The blocks after which anything happens, in order."""
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
    """The transfers after one block, each made once: a search uses the same few over and over."""

    MOST_KEPT = 1 << 12

    def __init__(self, block: int, outputs: tuple[Shape, ...]) -> None:
        """``outputs`` are the shapes that the ranks' blocks put out."""
        super().__init__()
        self.block, self.outputs = block, outputs
        self.tensor = f"b{block}"

    def __missing__(self, transfer: Transfer) -> Crossing:
        source, destination = transfer.source, transfer.destination
        own, others = self.outputs[source].dims, self.outputs[destination].dims
        tag = _tag(self.block, transfer, len(self.outputs))
        num_channels = transfer.num_channels(own[0], others[0])
        scale = transfer.scale_name(self.block)
        send = Send(self.tensor, _region(num_channels, *own[1:]), transfer.wire, destination, tag, scale)
        arriving = Shape.chw(num_channels, *own[1:])
        made = Crossing(tag, source, destination, transfer.lag, send, _recv(tag, source), arriving)
        if len(self) >= self.MOST_KEPT:
            self.clear()
        self[transfer] = made
        return made


# What many crossings share is one object: the fewer there are, the more of them a processor keeps at hand.


@lru_cache(maxsize=1 << 12)
def _region(*dims: int) -> Region:
    return Region(tuple([(0, size) for size in dims]))


@lru_cache(maxsize=1 << 14)
def _recv(tag: int, source: int) -> Recv:
    return Recv(tag, source, f"r{tag}")


@lru_cache(maxsize=1024)
def network_crossings(parts: tuple[PartTable, ...]) -> list[BlockCrossings]:
    """The transfers that were made so far of a network, by block."""
    outputs = list(zip(*[part.outputs for part in parts], strict=True))
    return [_block_crossings(block, shapes) for block, shapes in enumerate(outputs[1:-1])]  # between stem and head


@lru_cache(maxsize=256)
def _block_crossings(block: int, outputs: tuple[Shape, ...]) -> BlockCrossings:
    """Networks whose blocks put out the same shapes share them."""
    return BlockCrossings(block, outputs)


def _tag(block: int, transfer: Transfer, num_devices: int) -> int:
    """Points in order; of a point the awaited messages first, then by shift: no two senders share a receiver.

    Tags below ``num_devices`` are the client's inputs. A tag depends on its transfer alone.
    """
    shift = (transfer.destination - transfer.source) % num_devices
    turn = (2 * block + transfer.lag) * num_devices + shift
    return num_devices * (1 + turn) + transfer.source
