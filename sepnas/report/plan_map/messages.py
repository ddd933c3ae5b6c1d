"""For which layer each message of a plan is received, and which layer made its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sepnas.plan.plan import Plan, Segment
from sepnas.plan.steps import Compute, Recv, Send
from sepnas.report.plan_map.values import Flow


@dataclass(frozen=True, slots=True)
class Messages:
    """``incoming`` has the messages by the layer that they are received for, ``answer`` those that no layer reads.

    ``between`` are the pairs of layers, on different devices, of which the second needs what the first made.
    """

    incoming: Mapping[str, Flow]
    answer: Flow
    between: tuple[tuple[str, str], ...]


def messages_of(plan: Plan) -> Messages:
    """Follow each message from the layer that made its content to the first layer that reads it."""
    readers, makers = dict[int, str](), dict[int, str]()
    for rank in range(plan.num_devices):
        readers.update(_readers(plan, rank))
        makers.update(_makers(plan, rank))
    incoming, answer = dict[str, Flow](), Flow()
    for message in plan.messages():
        way = message.source, message.destination, message.payload_bytes()
        if message.tag in readers:
            layer = readers[message.tag]
            incoming[layer] = incoming.get(layer, Flow()).with_message(*way)
        else:
            answer = answer.with_message(*way)
    between = ((makers[tag], layer) for tag, layer in readers.items() if tag in makers)
    return Messages(incoming, answer, tuple(dict.fromkeys(between)))


def _readers(plan: Plan, rank: int) -> Iterator[tuple[int, str]]:
    """The tag of each message of a device, with the first layer that reads what it brought."""
    held: dict[str, set[int]] = {}
    told = set[int]()
    for step in plan.programs[rank]:
        brought = set[int]().union(*(held.get(name, ()) for name in step.reads))
        if isinstance(step, Recv):
            held[step.tensor] = {step.tag}
        elif isinstance(step, Compute):
            segment = plan.segments[rank][step.segment]
            for port, name in zip(segment.inputs, step.inputs, strict=True):
                for tag in held.get(name, set()) - told:
                    told.add(tag)
                    yield tag, _reader_of(segment, port)
        elif not isinstance(step, Send):
            held |= dict.fromkeys(step.writes, brought)


def _reader_of(segment: Segment, port: str) -> str:
    return next((node.layer for node in segment.nodes if port in node.inputs.values()), segment.layers[0])


def _makers(plan: Plan, rank: int) -> Iterator[tuple[int, str]]:
    """The tag of each message that a device sends, with the layer that made its content."""
    made: dict[str, str] = {}
    for step in plan.programs[rank]:
        if isinstance(step, Compute):
            segment = plan.segments[rank][step.segment]
            for port, name in zip(segment.outputs, step.outputs, strict=True):
                made[name] = next((n.layer for n in segment.nodes if port in n.outputs), segment.layers[-1])
        elif isinstance(step, Send):
            if step.tensor in made:
                yield step.tag, made[step.tensor]
        elif not isinstance(step, Recv):
            source = next((made[name] for name in step.reads if name in made), None)
            made |= {} if source is None else dict.fromkeys(step.writes, source)
