"""The transfers of a policy as steps, by the block and the device where they happen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.plan.network import NetworkTable, PartTable
from sepnas.plan.steps import Recv, Region, Send, Shape
from sepnas.spec.policy import ExchangePoint, Transfer, TransmissionPolicy

Arrivals: TypeAlias = tuple[tuple[Recv, Shape], ...]
_NOTHING: Mapping[int, Arrivals] = {}


@dataclass(frozen=True, slots=True)
class PointSteps:
    """One exchange point by rank: what is sent, what is merged at once, and what one block later."""

    sends: Mapping[int, tuple[Send, ...]]
    prompt: Mapping[int, Arrivals]
    late: Mapping[int, Arrivals]


@dataclass(slots=True)
class Event:
    """What happens after a block: sends, then merges of what comes late from the point before and of its own."""

    block: int
    sends: Mapping[int, tuple[Send, ...]]
    late: Mapping[int, Arrivals]
    prompt: Mapping[int, Arrivals]
    late_weighted: bool = False
    prompt_weighted: bool = False

    def is_weighted(self, rank: int) -> bool:
        return (self.late_weighted and rank in self.late) or (self.prompt_weighted and rank in self.prompt)


def events_of(policy: TransmissionPolicy, network: NetworkTable) -> list[Event]:
    """The blocks after which anything happens, in order."""
    events: list[Event] = []
    for point in policy.points:
        steps, weighted = _steps_of(point, network), point.merge == "weighted"
        if not events or events[-1].block < point.after:
            events.append(Event(point.after, {}, _NOTHING, _NOTHING))
        event = events[-1]
        event.sends, event.prompt, event.prompt_weighted = steps.sends, steps.prompt, weighted
        if steps.late:
            events.append(Event(point.after + 1, {}, steps.late, _NOTHING, late_weighted=weighted))
    return events


def live_events(events: list[Event], readers: set[int]) -> list[Event]:
    """The same without what cannot reach the logits of ``readers``: walked from the last block to the first."""
    needed, live_tags, found = set(readers), set[int](), []
    for event in reversed(events):
        late, prompt = (_arriving(arrivals, needed, live_tags) for arrivals in (event.late, event.prompt))
        sends = {}
        for rank, posted in event.sends.items():
            kept = tuple(send for send in posted if send.tag in live_tags)
            if kept:
                sends[rank] = kept
        needed = needed.union(sends)
        found.append(Event(event.block, sends, late, prompt, event.late_weighted, event.prompt_weighted))
    return found[::-1]


def _arriving(arrivals: Mapping[int, Arrivals], needed: set[int], live_tags: set[int]) -> dict[int, Arrivals]:
    """What arrives where it is needed; its tags are added to the living."""
    found = {rank: due for rank, due in arrivals.items() if rank in needed}
    for due in found.values():
        live_tags.update(recv.tag for recv, _ in due)
    return found


def _steps_of(point: ExchangePoint, network: NetworkTable) -> PointSteps:
    """Made once for each point and network: a search uses the same few points over and over."""
    found = network.kept(point)
    if not isinstance(found, PointSteps):
        found = _make_steps(point, network.parts)
        network.keep(point, found)
    return found


def _make_steps(point: ExchangePoint, parts: tuple[PartTable, ...]) -> PointSteps:
    tensor, layer = f"b{point.after}", point.after + 1
    sends: dict[int, tuple[Send, ...]] = {}
    arrivals: tuple[dict[int, Arrivals], dict[int, Arrivals]] = ({}, {})
    tags = [_tag(point.after, transfer, len(parts)) for transfer in point.transfers]
    for tag, transfer in sorted(zip(tags, point.transfers, strict=True), key=lambda pair: pair[0]):
        send = Send(tensor, _region(transfer, parts, layer), transfer.wire, transfer.destination, tag)
        sends[transfer.source] = (*sends.get(transfer.source, ()), send)
    for tag, transfer in zip(tags, point.transfers, strict=True):
        received = _region(transfer, parts, layer).shape(parts[transfer.destination].outputs[layer])
        due, rank = arrivals[transfer.lag], transfer.destination
        due[rank] = (*due.get(rank, ()), (Recv(tag, transfer.source, f"r{tag}"), received))
    return PointSteps(sends, *arrivals)


def _region(transfer: Transfer, parts: tuple[PartTable, ...], layer: int) -> Region:
    own, others = parts[transfer.source].outputs[layer], parts[transfer.destination].outputs[layer]
    return Region((0, transfer.num_channels(own.channels, others.channels)), (0, own.height))


def _tag(block: int, transfer: Transfer, num_devices: int) -> int:
    """Points in order; of a point the awaited messages first, then by shift: no two senders share a receiver.

    Tags below ``num_devices`` are the client's inputs. A tag depends on its transfer alone.
    """
    shift = (transfer.destination - transfer.source) % num_devices
    turn = (2 * block + transfer.lag) * num_devices + shift
    return num_devices * (1 + turn) + transfer.source
