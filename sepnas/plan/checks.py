"""Checks of a single step after the steps before it, as seen from its own device."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sepnas.plan.merges import merge_problem
from sepnas.plan.plan import Message
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step


def step_problem(
    step: Step,
    rank: int,
    known: Collection[str],
    shapes: Mapping[str, Shape],
    messages: Mapping[int, Message],
    segments: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]],
) -> str | None:
    """Why ``step`` of device ``rank`` cannot be carried out; None if it can.

    Args:
        known: the tensors that earlier steps have made.
        shapes: the shape of one sample of each tensor.
        messages: the messages that the plan lists, by tag.
        segments: the names of each segment's inputs and outputs.
    """
    missing = [name for name in step.reads if name not in known]
    if missing:
        return f"{_verb(step)} tensor '{missing[0]}', which no earlier step makes"
    for name in step.writes:
        if name not in shapes:
            return f"makes tensor '{name}', whose shape `shapes` does not hold"
        if name in known:
            return f"makes tensor '{name}', which an earlier step has made"
    if isinstance(step, Compute):
        return _compute_problem(step, segments)
    if isinstance(step, Slice):
        return _slice_problem(step, shapes)
    if isinstance(step, Merge):
        return merge_problem(step, shapes[step.output], [shapes[name] for name in step.inputs])
    if isinstance(step, Recv):
        return _recv_problem(step, rank, shapes, messages)
    return _send_problem(step, rank, shapes, messages)


def _verb(step: Step) -> str:
    return "sends" if isinstance(step, Send) else "takes"


def _peer(rank: int) -> str:
    return "the client" if rank == CLIENT else f"device {rank}"


def _compute_problem(step: Compute, segments: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> str | None:
    if step.segment not in segments:
        return f"runs segment '{step.segment}', which `segments` does not hold"
    inputs, outputs = segments[step.segment]
    for given, named, what in ((step.inputs, inputs, "inputs"), (step.outputs, outputs, "outputs")):
        if len(given) != len(named):
            return f"binds {len(given)} {what} of segment '{step.segment}', which has {len(named)}: {', '.join(named)}"
    if len(set(step.outputs)) < len(step.outputs):
        return "makes one tensor twice"
    return None


def _slice_problem(step: Slice, shapes: Mapping[str, Shape]) -> str | None:
    shape = shapes[step.tensor]
    if outside := step.region.outside(shape):
        return f"takes {outside[0]} of tensor '{step.tensor}', which has {outside[1]}"
    if step.region.shape(shape) != shapes[step.output]:
        return f"makes '{step.output}' of {step.region.shape(shape)}, but its shape is {shapes[step.output]}"
    return None


def _recv_problem(step: Recv, rank: int, shapes: Mapping[str, Shape], messages: Mapping[int, Message]) -> str | None:
    message = messages.get(step.tag)
    if message is None or message.source != step.source:
        return f"waits for message {step.tag} from {_peer(step.source)}, which never sends it"
    if message.destination != rank:
        return f"waits for message {step.tag}, which {_peer(step.source)} sends to {_peer(message.destination)}"
    if message.shape != shapes[step.tensor]:
        return f"message {step.tag} has another shape ({message.shape}) than '{step.tensor}' ({shapes[step.tensor]})"
    return None


def _send_problem(step: Send, rank: int, shapes: Mapping[str, Shape], messages: Mapping[int, Message]) -> str | None:
    shape = shapes[step.tensor]
    if outside := step.region.outside(shape):
        return f"sends {outside[0]} of tensor '{step.tensor}', which has {outside[1]}"
    message = messages.get(step.tag)
    if message is None or (message.source, message.destination, message.wire) != (rank, step.to, step.wire):
        return f"sends message {step.tag} to {_peer(step.to)} in {step.wire}, but no such message is listed"
    if message.shape != step.region.shape(shape):
        return f"message {step.tag} is listed with another shape than the region that is sent"
    if message.scale != step.scale:
        return f"message {step.tag} is listed with scale {message.scale!r}, but sent with {step.scale!r}"
    return None
