"""Runs one device's program for one request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, TypeAlias

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError, SepnasError
from sepnas.plan.merges import merge, optional_tensors
from sepnas.plan.plan import Message
from sepnas.plan.steps import Compute, Merge, Recv, Send, Slice, Step
from sepnas.runtime.engines.shard import LoadedPlan
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.protocol.events import Data, PartialData
from sepnas.runtime.protocol.names import rank_name
from sepnas.runtime.protocol.times import StepTime
from sepnas.runtime.tensors.codec import Array, Payload, decode, decode_image, encode
from sepnas.runtime.worker.mailbox import Mailbox, ReceivedPayload
from sepnas.runtime.worker.pace import FreePace, Pace
from sepnas.runtime.worker.patience import Patience

Post: TypeAlias = Callable[[int, Data], None]
"""Sends a message to a rank without waiting for it."""


@dataclass
class RunningRequest:
    """A request on this device; times are ``time.monotonic`` seconds.

    Attributes:
        tolerant: goes on without messages that are late or lost.
        without: ranks that take no part.
        normalised: images come as normalised fp32 values.
        silent: ranks that are not waited for: these, and those that have been late since the request ``arrived``.
        tensors: what the steps so far have left for later ones, by name.
        missing: names of the tensors it went without.
        partial: a tensor is missing, or a received one was computed without a message.
        own: payloads of the outputs that the device computed alone and sent to a peer, by tag.
    """

    number: int
    batch: int
    deadline: float
    tolerant: bool = False
    without: frozenset[int] = frozenset()
    arrived: float = math.inf
    normalised: bool = False
    silent: set[int] = field(init=False)
    tensors: dict[str, Array] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    partial: bool = False
    own: dict[int, Payload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.silent = set(self.without)


StepErrorCode: TypeAlias = Literal["deadline", "peer-lost", "compute", "protocol"]
OnMissed: TypeAlias = Callable[[int, Recv], None]
"""Called with the number of the request and the step that went without its message."""


class StepError(Exception):
    """Step ``step`` of the program failed with ``error``, perhaps while waiting for the rank ``waiting_for``."""

    def __init__(self, step: int, error: Exception, waiting_for: int | None = None) -> None:
        super().__init__(str(error))
        self.step, self.error, self.waiting_for = step, error, waiting_for


class Executor:
    """Carries out the steps of a device in one plan, one request at a time.

    A tensor is dropped after the last step that uses it, so the memory peak is the one that the plan predicts.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        engine: Engine,
        mailbox: Mailbox,
        post: Post,
        pace: Pace | None = None,
        on_missed: OnMissed = lambda request, step: None,
    ) -> None:
        self._plan, self._engine, self._mailbox, self._post = plan, engine, mailbox, post
        self._pace, self._on_missed = pace or FreePace(), on_missed
        self._drop_after = _last_uses(plan.program)
        self._optional, self._patience = optional_tensors(plan.program), Patience(len(plan.program))
        self._late_at: dict[int, float] = {}
        self._shapes = plan.shapes

    def run(self, request: RunningRequest) -> list[StepTime]:
        """Run the whole program; returns the times of its steps. Raises :class:`StepError`."""
        times: list[StepTime] = []
        begun_ns = time.monotonic_ns()
        self._pace.begin(request.batch)
        if request.tolerant:
            request.silent |= {source for source, found in self._late_at.items() if request.arrived < found}
            self._patience.begin(request.batch, begun_ns / 1e9, request.deadline)
        for index, step in enumerate(self._plan.program):
            start = time.monotonic_ns()
            self._pace.start(index)
            try:
                size, arrived = self._do(index, step, request)
            except Exception as error:
                raise StepError(index, error, step.source if isinstance(step, Recv) else None) from error
            times.append(StepTime(index, start, time.monotonic_ns(), size, arrived))
            for name in self._drop_after[index]:
                request.tensors.pop(name, None)  # a missing tensor was never there
        if request.tolerant and not request.partial:
            self._patience.learn(request.batch, begun_ns, times)
        return times

    def _do(self, index: int, step: Step, request: RunningRequest) -> tuple[int, int | None]:
        """Carry out one step; returns payload bytes and time of arrival for the trace."""
        if isinstance(step, Compute):
            made = self._engine.run(self._plan.keys[step.segment], [request.tensors[name] for name in step.inputs])
            for name, array in zip(step.outputs, made, strict=True):
                request.tensors[name] = array.reshape(request.batch, *self._shapes[name].dims)
        elif isinstance(step, Slice):
            request.tensors[step.output] = request.tensors[step.tensor][step.region.slices]
        elif isinstance(step, Send):
            return self._send(step, request), None
        elif isinstance(step, Recv):
            return self._receive(index, step, request)
        else:
            request.tensors[step.output] = self._merge(step, request)
        self._pace.finish()
        return 0, None

    def _send(self, step: Send, request: RunningRequest) -> int:
        values = request.tensors[step.tensor][step.region.slices]
        payload = encode(values, step.wire, self._plan.scale(step))
        if step.tag in self._plan.fallbacks:
            request.own[step.tag] = payload
        self._pace.finish()
        if step.to in request.without:
            return 0
        kind = PartialData if request.partial else Data
        self._post(step.to, kind(request.number, step.tag, payload))
        return len(payload)

    def _receive(self, index: int, step: Recv, request: RunningRequest) -> tuple[int, int | None]:
        received = self._await(index, step, request)
        if received is None:
            request.missing.add(step.tensor)
            request.partial = True
            if step.source not in request.without:
                request.silent.add(step.source)
                self._late_at[step.source] = time.monotonic()
                self._on_missed(request.number, step)
            self._pace.arrived(time.monotonic_ns())
            self._pace.finish()
            return 0, None
        request.partial |= received.partial
        self._pace.arrived(received.arrived_ns)
        message = self._plan.messages[step.tag].sent_as(request.normalised)
        tensor = self._decode(message, received.payload)
        if len(tensor) != request.batch:
            raise RemoteProtocolError(
                f"message {step.tag} from rank {step.source} has {len(received.payload)} bytes; "
                f"{message.payload_bytes(request.batch)} were expected for a batch of {request.batch}"
            )
        request.tensors[step.tensor] = tensor
        self._pace.finish()
        return len(received.payload), received.arrived_ns

    def _decode(self, message: Message, payload: Payload) -> Array:
        if message.normalisation:
            return decode_image(payload, message.shape, self._plan.weights[message.normalisation])
        return decode(payload, message.wire, message.shape, self._plan.scale(message))

    def _await(self, index: int, step: Recv, request: RunningRequest) -> ReceivedPayload | None:
        """The step's message; None if the step goes without it."""
        if not request.tolerant or step.tensor not in self._optional:
            return self._mailbox.take(request.number, step.tag, request.deadline)
        until = 0.0 if step.source in request.silent else self._patience.until(index)
        return self._mailbox.wait(request.number, step.tag, until, step.source)

    def _merge(self, step: Merge, request: RunningRequest) -> Array:
        there = [name not in request.missing for name in step.inputs]
        weights = list(compress(self._plan.weights[step.parameter], there[1:])) if step.parameter else None
        inputs = [request.tensors[name] for name in compress(step.inputs, there)]
        return merge(step, self._shapes[step.output], inputs, weights)

    def describe(self, index: int) -> str:
        """A step in words, for error messages."""
        step = self._plan.program[index]
        if isinstance(step, Compute):
            what = f"computing segment '{step.segment}' ({', '.join(self._plan.layers[step.segment])})"
        elif isinstance(step, Send):
            what = f"sending '{step.tensor}' to {rank_name(step.to)}"
        elif isinstance(step, Recv):
            what = f"waiting for message {step.tag} from {rank_name(step.source)}"
        elif isinstance(step, Slice):
            what = f"taking '{step.output}' from '{step.tensor}'"
        else:
            what = f"merging into '{step.output}'"
        return f"step {index} of {len(self._plan.program)}, {what}"


def error_code(error: Exception) -> StepErrorCode:
    """The code under which a failure is sent and counted."""
    if isinstance(error, DeadlineError):
        return "deadline"
    if isinstance(error, RemoteProtocolError):
        return "protocol"
    return "peer-lost" if isinstance(error, ExchangeError) else "compute"


def error_text(error: Exception) -> str:
    """A failure's message; with the class in front if the error is not ours."""
    return str(error) if isinstance(error, SepnasError) else f"{type(error).__name__}: {error}"


def _last_uses(program: tuple[Step, ...]) -> list[list[str]]:
    """For each step the names of the tensors that no later step uses."""
    last: dict[str, int] = {}
    for index, step in enumerate(program):
        last.update(dict.fromkeys((*step.reads, *step.writes), index))
    drops: list[list[str]] = [[] for _ in program]
    for name, index in last.items():
        drops[index].append(name)
    return drops
