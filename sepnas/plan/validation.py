"""Refuses a plan that cannot be carried out, and names the step and the device that are wrong.

Each device's steps are checked alone (:mod:`sepnas.plan.checks`), then the messages between devices: every message is
sent and received once, in the right shape; the ports fit; there is no deadlock; and tags rise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from sepnas.errors import PlanError
from sepnas.plan.checks import step_problem
from sepnas.plan.plan import Message, Piece, Plan, Port
from sepnas.plan.schedule import progress
from sepnas.plan.shapes import Region, cover_problem
from sepnas.plan.steps import CLIENT, Compute, Recv, Send, Step, describe_step
from sepnas.plan.wire import IMAGE_FORMATS, LEVELS
from sepnas.terminal import one_line

MAX_PROBLEMS = 8
"""Maximum number of mistakes reported for one plan."""


def check_plan(plan: Plan, where: str = "plan") -> None:
    """Raise :class:`PlanError` that names device and step of each mistake, unless the plan can be carried out."""
    problems = plan_problems(plan)
    if problems:
        told = [one_line(f"{where}: {problem}") for problem in problems[:MAX_PROBLEMS]]
        more = [f"{where}: and {len(problems) - MAX_PROBLEMS:,} more"] if len(problems) > MAX_PROBLEMS else []
        raise PlanError("\n".join([*told, *more]))


def plan_problems(plan: Plan) -> list[str]:
    """The mistakes of a plan; empty if it can be carried out."""
    if not len(plan.programs) == len(plan.segments) == len(plan.shapes):
        return ["programs, segments and shapes must be those of the same devices"]
    mail = _Mail(plan)
    problems = list(chain(mail.problems, _step_problems(plan, mail), _message_problems(plan, mail)))
    problems += [problem for port in (*plan.inputs, *plan.outputs) for problem in _port_problems(plan, port, mail)]
    problems += _name_problems(plan)
    # the order of messages is checked only if each message is right
    return problems or [*_deadlocks(plan)] or [*_falling_tags(plan)]


def place_of(rank: int, index: int, step: Step) -> str:
    """The name of a step in an error."""
    kind, name, _, _ = describe_step(step)
    return f"device {rank}, step {index} ({kind} '{name}')"


@dataclass
class _Mail:
    """All messages of a plan by tag, with their sends and receives."""

    plan: Plan
    sent: dict[int, tuple[Message, str]] = field(default_factory=dict)
    received: dict[int, tuple[int, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for port in self.plan.inputs:
            for piece in port.pieces:
                shape = piece.region.shape(port.shape)
                message = Message(piece.tag, CLIENT, piece.device, port.name, shape, piece.wire)
                self._post(message, f"input '{port.name}'")
        for rank, program in enumerate(self.plan.programs):
            for index, step in enumerate(program):
                if isinstance(step, Send):
                    self._send(rank, step, place_of(rank, index, step))
                elif isinstance(step, Recv):
                    self._receive(rank, step, place_of(rank, index, step))

    @property
    def messages(self) -> dict[int, Message]:
        return {tag: message for tag, (message, _) in self.sent.items()}

    def _post(self, message: Message, place: str) -> None:
        if message.tag in self.sent:
            self.problems.append(f"{place}: tag {message.tag} is that of {self.sent[message.tag][1]}, too")
        else:
            self.sent[message.tag] = message, place

    def _send(self, rank: int, step: Send, place: str) -> None:
        shape = self.plan.shapes[rank].get(step.tensor)
        if shape is not None and not step.region.outside(shape):  # otherwise the step itself is refused
            region = step.region.shape(shape)
            self._post(Message(step.tag, rank, step.to, step.tensor, region, step.wire, step.scale), place)

    def _receive(self, rank: int, step: Recv, place: str) -> None:
        if step.tag in self.received:
            self.problems.append(
                f"{place}: message {step.tag} is received twice, first by {self.received[step.tag][1]}"
            )
        else:
            self.received[step.tag] = rank, place


def _step_problems(plan: Plan, mail: _Mail) -> Iterator[str]:
    """Mistakes that each device can detect alone."""
    messages = mail.messages
    for rank, program in enumerate(plan.programs):
        segments = {name: (segment.inputs, segment.outputs) for name, segment in plan.segments[rank].items()}
        known: set[str] = set()
        for index, step in enumerate(program):
            problem = step_problem(step, rank, known, plan.shapes[rank], messages, segments)
            if problem:
                yield f"{place_of(rank, index, step)}: {problem}"
                break  # later mistakes may be consequences of this one
            known.update(step.writes)


def _message_problems(plan: Plan, mail: _Mail) -> Iterator[str]:
    """Messages without a receiver, and messages that are sent in the wrong form."""
    answered = {piece.tag for port in plan.outputs for piece in port.pieces}
    for message, place in mail.sent.values():
        tag, to = message.tag, message.destination
        if to == CLIENT and tag not in answered:
            yield f"{place}: sends message {tag} to the client, but no output takes it"
        elif to != CLIENT and not 0 <= to < plan.num_devices:
            yield f"{place}: sends message {tag} to device {to}; the devices are 0..{plan.num_devices - 1}"
        elif to != CLIENT and mail.received.get(tag, (None, ""))[0] != to:
            yield f"{place}: sends message {tag} to device {to}, which does not receive it"
        if to == message.source:
            yield f"{place}: sends message {tag} to itself"
        if message.scale is not None and message.wire not in LEVELS:
            yield f"{place}: sends message {tag} with scale '{message.scale}', but {message.wire} has no levels"
        if message.wire in IMAGE_FORMATS and message.source != CLIENT:
            yield f"{place}: sends message {tag} in {message.wire}, in which only the client sends images"


def _port_problems(plan: Plan, port: Port, mail: _Mail) -> Iterator[str]:
    is_output = port in plan.outputs
    what = f"{'output' if is_output else 'input'} '{port.name}'"
    if not port.pieces:
        yield f"{what}: is sent to no device" if not is_output else f"{what}: is sent by no device"
    for piece in (*port.pieces, *port.fallbacks):
        if piece.wire in IMAGE_FORMATS and "C" not in port.shape.axes:
            yield f"{what}: message {piece.tag} is in {piece.wire}, but the tensor has no channels (axis C)"
        outside = piece.region.outside(port.shape)
        if outside:
            yield f"{what}: message {piece.tag} holds {outside[0]}, but the tensor has {outside[1]}"
        elif is_output:
            problem = _answer_problem(port, piece, mail)
            if problem:
                yield f"{what}: {problem}"
    if is_output and not any(piece.region.outside(port.shape) for piece in port.pieces):
        problem = cover_problem(port.shape, [piece.region for piece in port.pieces])
        if problem:
            yield f"{what}: its messages {problem}"
    if port.fallbacks and not is_output:
        yield f"{what}: an input has no fallbacks"


def _answer_problem(port: Port, piece: Piece, mail: _Mail) -> str | None:
    """Why the message of a piece does not carry this piece of an output."""
    message, place = mail.sent.get(piece.tag, (None, ""))
    if message is None or message.source != piece.device:
        return f"device {piece.device} does not send message {piece.tag}"
    if (message.destination == CLIENT) is not (piece in port.pieces):
        return f"{place}: a message to {'a peer' if piece in port.pieces else 'the client'} is no such piece"
    if message.shape != piece.region.shape(port.shape):
        return f"{place}: sends {message.shape}, but the piece is {piece.region.shape(port.shape)}"
    if message.wire != piece.wire:
        return f"{place}: sends {message.wire}, but the piece is {piece.wire}"
    if message.scale is not None:
        return f"{place}: sends message {piece.tag} with scale '{message.scale}', which the client does not have"
    if piece in port.fallbacks and piece.region != Region.whole(port.shape):
        return f"{place}: message {piece.tag} is a fallback, so it must be the whole output, {port.shape}"
    return None


def _name_problems(plan: Plan) -> Iterator[str]:
    """Names that are given twice, to nothing, or to a segment that runs on different shapes."""
    if not plan.outputs:
        yield "has no output"
    for ports, what in ((plan.inputs, "input"), (plan.outputs, "output")):
        names = [port.name for port in ports]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"{what} '{name}' is there twice"
    for rank, program in enumerate(plan.programs):
        made = {name for step in program for name in step.writes}
        run = {step.segment for step in program if isinstance(step, Compute)}
        for name in plan.shapes[rank].keys() - made:
            yield f"device {rank}: has the shape of tensor '{name}', which no step makes"
        for name in plan.segments[rank].keys() - run:
            yield f"device {rank}: has segment '{name}', which no step runs"
        for name, segment in plan.segments[rank].items():
            if (segment.name, segment.device) != (name, rank):
                yield f"device {rank}: segment '{name}' is '{segment.name}' of device {segment.device}"
        yield from _shapes_of_segments(plan, rank)


def _shapes_of_segments(plan: Plan, rank: int) -> Iterator[str]:
    shapes, first = plan.shapes[rank], dict[str, tuple[object, int]]()
    for index, step in enumerate(plan.programs[rank]):
        if isinstance(step, Compute):
            found = [shapes.get(name) for name in (*step.inputs, *step.outputs)]
            known, before = first.setdefault(step.segment, (found, index))
            if known != found:
                yield f"{place_of(rank, index, step)}: runs on other shapes than in step {before}"


def _deadlocks(plan: Plan) -> Iterator[str]:
    """Run every device up to a wait for a message that cannot have been sent; name the devices that wait."""
    _, at = progress(plan)
    waiting = {
        rank: step
        for rank, program in enumerate(plan.programs)
        if at[rank] < len(program) and isinstance(step := program[at[rank]], Recv)
    }
    circle = _circle(waiting)
    for rank in circle:
        step = waiting[rank]
        yield (
            f"{place_of(rank, at[rank], step)}: waits for message {step.tag} from device {step.source}, which sends it "
            f"only after its step {at[step.source]}: {' -> '.join(map(str, (*circle, circle[0])))} wait for each other"
        )


def _circle(waiting: Mapping[int, Recv]) -> list[int]:
    """A cycle of devices, each of which waits for the next."""
    if not waiting:
        return []
    seen: list[int] = []
    rank = next(iter(waiting))
    while rank not in seen:
        seen.append(rank)
        rank = waiting[rank].source
    return seen[seen.index(rank) :]


def _falling_tags(plan: Plan) -> Iterator[str]:
    """Tags must rise along every dependency, because messages take turns on wires by tag."""
    for rank, program in enumerate(plan.programs):
        highest = -1
        for index, step in enumerate(program):
            if isinstance(step, Send) and step.tag <= highest:
                yield f"{place_of(rank, index, step)}: sends tag {step.tag} after a message of tag {highest}"
            if isinstance(step, Send | Recv):
                highest = max(highest, step.tag)
