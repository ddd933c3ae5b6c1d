"""Plans as plain data: what a shard manifest holds, and back, with every mistake named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sepnas.deployment.manifest import (
    ComputeData,
    MergeData,
    MessageData,
    RecvData,
    SendData,
    ShapeData,
    ShardManifest,
    StepData,
)
from sepnas.errors import PlanError
from sepnas.plan.steps import Compute, Merge, Message, Plan, Recv, Region, Send, Shape, Step


def shape_to_data(shape: Shape) -> ShapeData:
    return ShapeData(channels=shape.channels, height=shape.height, width=shape.width)


def shape_from_data(data: ShapeData) -> Shape:
    return Shape(data.channels, data.height, data.width)


def step_to_data(step: Step) -> StepData:
    if isinstance(step, Compute):
        return ComputeData(segment=step.segment, inputs=step.inputs, output=step.output)
    if isinstance(step, Send):
        region = step.region
        return SendData(
            tensor=step.tensor, channels=region.channels, rows=region.rows, wire=step.wire, to=step.to, tag=step.tag,
            scale=step.scale,
        )  # fmt: skip
    if isinstance(step, Recv):
        return RecvData(tag=step.tag, source=step.source, tensor=step.tensor)
    return MergeData(kind=step.kind, inputs=step.inputs, output=step.output, parameter=step.parameter)


def step_from_data(data: StepData) -> Step:
    if isinstance(data, ComputeData):
        return Compute(data.segment, data.inputs, data.output)
    if isinstance(data, SendData):
        return Send(data.tensor, Region(data.channels, data.rows), data.wire, data.to, data.tag, data.scale)
    if isinstance(data, RecvData):
        return Recv(data.tag, data.source, data.tensor)
    return Merge(data.kind, data.inputs, data.output, data.parameter)


def message_to_data(message: Message) -> MessageData:
    return MessageData(
        tag=message.tag,
        source=message.source,
        destination=message.destination,
        tensor=message.tensor,
        shape=shape_to_data(message.shape),
        wire=message.wire,
        scale=message.scale,
    )


def message_from_data(data: MessageData) -> Message:
    shape = shape_from_data(data.shape)
    return Message(data.tag, data.source, data.destination, data.tensor, shape, data.wire, data.scale)


def program_to_data(program: Iterable[Step]) -> tuple[StepData, ...]:
    return tuple(step_to_data(step) for step in program)


def messages_of(plan: Plan, rank: int) -> tuple[Message, ...]:
    """The messages that ``rank`` sends or receives."""
    return tuple(message for message in plan.messages() if rank in (message.source, message.destination))


def program_of(shard: ShardManifest, where: str = "shard") -> tuple[Step, ...]:
    """The steps of a shard; :class:`PlanError` names a step that cannot be carried out."""
    program = tuple(step_from_data(data) for data in shard.program)
    messages = {message.tag: message for message in shard.messages}
    known: set[str] = set()
    for index, step in enumerate(program):
        problem = _problem(step, shard, messages, known)
        if problem:
            raise PlanError(f"{where}: `program.{index}`: {problem}")
        if not isinstance(step, Send):
            known.add(step.tensor if isinstance(step, Recv) else step.output)
    return program


def _problem(step: Step, shard: ShardManifest, messages: Mapping[int, MessageData], known: set[str]) -> str | None:
    """What keeps this step from being carried out after those before it."""
    if isinstance(step, Recv):
        message = messages.get(step.tag)
        if message is None or (message.source, message.destination) != (step.source, shard.rank):
            return f"no message {step.tag} from rank {step.source} to rank {shard.rank} is listed in `messages`"
    elif isinstance(step, Send):
        if step.tensor not in known:
            return f"sends tensor '{step.tensor}', which no earlier step makes"
        return _send_problem(step, shard, messages)
    else:
        missing = [name for name in step.inputs if name not in known]
        if missing:
            return f"takes tensor '{missing[0]}', which no earlier step makes"
        if isinstance(step, Compute) and step.segment not in shard.segments:
            return f"runs segment '{step.segment}', which `segments` does not hold"
    output = step.tensor if isinstance(step, Recv) else step.output
    return None if output in shard.shapes else f"makes tensor '{output}', whose shape `shapes` does not hold"


def _send_problem(step: Send, shard: ShardManifest, messages: Mapping[int, MessageData]) -> str | None:
    shape, region = shape_from_data(shard.shapes[step.tensor]), step.region
    for (start, stop), limit, name in (
        (region.channels, shape.channels, "channels"),
        (region.rows, shape.height, "rows"),
    ):
        if not 0 <= start < stop <= limit:
            return f"sends {name} {start}..{stop} of tensor '{step.tensor}', which has {limit}"
    message = messages.get(step.tag)
    if message is None or (message.source, message.destination, message.wire) != (shard.rank, step.to, step.wire):
        return f"no {step.wire} message {step.tag} from rank {shard.rank} to rank {step.to} is listed in `messages`"
    if shape_from_data(message.shape) != region.shape(shape):
        return f"message {step.tag} is listed with another shape than the region that is sent"
    if message.scale != step.scale:
        return f"message {step.tag} is listed with scale {message.scale!r}, but sent with {step.scale!r}"
    return None
