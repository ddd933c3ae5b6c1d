"""Runs one device's program for one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError, SepnasError
from sepnas.plan.steps import Compute, Merge, Recv, Send, Shape, Step
from sepnas.runtime.codec import Array, decode, encode
from sepnas.runtime.engines import Engine
from sepnas.runtime.events import Data
from sepnas.runtime.mailbox import Mailbox
from sepnas.runtime.merge import merge
from sepnas.runtime.pace import FreePace, Pace
from sepnas.runtime.shard import Shard

Post: TypeAlias = Callable[[int, Data], None]
"""Queues a message for a rank; does not wait."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """When a step ran (``time.monotonic_ns``); of a received message also when it had arrived."""

    index: int
    start_ns: int
    end_ns: int
    payload_bytes: int = 0
    arrived_ns: int | None = None


class StepError(Exception):
    """A step failed; ``error`` says how, ``step`` is its place in the program."""

    def __init__(self, step: int, error: Exception, waiting_for: int | None = None) -> None:
        super().__init__(str(error))
        self.step, self.error, self.waiting_for = step, error, waiting_for


class Executor:
    """Carries out the steps of a shard, one request at a time.

    Tensors are dropped after the last step that uses them: the peak of memory is that of the plan.
    """

    def __init__(self, shard: Shard, engine: Engine, mailbox: Mailbox, post: Post, pace: Pace | None = None) -> None:
        self._shard, self._engine, self._mailbox, self._post = shard, engine, mailbox, post
        self._pace = pace or FreePace()
        self._drop_after = _last_uses(shard.program)
        self._shapes = {
            name: Shape(data.channels, data.height, data.width) for name, data in shard.manifest.shapes.items()
        }

    def run(self, request: int, batch: int, deadline: float) -> list[StepTime]:
        """Run the whole program; raises :class:`StepError`. ``deadline`` is in ``time.monotonic`` seconds."""
        tensors: dict[str, Array] = {}
        times = []
        self._pace.begin(batch)
        for index, step in enumerate(self._shard.program):
            start = time.monotonic_ns()
            self._pace.start(index)
            try:
                size, arrived = self._do(step, tensors, request, batch, deadline)
            except Exception as error:
                raise StepError(index, error, step.source if isinstance(step, Recv) else None) from error
            times.append(StepTime(index, start, time.monotonic_ns(), size, arrived))
            for name in self._drop_after[index]:
                del tensors[name]
        return times

    def _do(
        self, step: Step, tensors: dict[str, Array], request: int, batch: int, deadline: float
    ) -> tuple[int, int | None]:
        """Carry out one step; payload bytes and the time of arrival for the trace."""
        if isinstance(step, Compute):
            output = self._engine.run(step.segment, [tensors[name] for name in step.inputs])
            shape = self._shapes[step.output]
            tensors[step.output] = output.reshape(batch, shape.channels, shape.height, shape.width)
        elif isinstance(step, Send):
            (first, stop), (top, bottom) = step.region.channels, step.region.rows
            payload = encode(tensors[step.tensor][:, first:stop, top:bottom], step.wire)
            self._pace.finish()
            self._post(step.to, Data(request, step.tag, payload))
            return len(payload), None
        elif isinstance(step, Recv):
            return self._receive(step, tensors, request, batch, deadline)
        else:
            tensors[step.output] = self._merge(step, tensors)
        self._pace.finish()
        return 0, None

    def _receive(
        self, step: Recv, tensors: dict[str, Array], request: int, batch: int, deadline: float
    ) -> tuple[int, int | None]:
        letter = self._mailbox.take(request, step.tag, deadline)
        self._pace.arrived(letter.arrived_ns)
        message = self._shard.messages[step.tag]
        if len(letter.payload) != message.payload_bytes(batch):
            raise RemoteProtocolError(
                f"message {step.tag} from rank {step.source} has {len(letter.payload)} bytes; "
                f"{message.payload_bytes(batch)} were due for a batch of {batch}"
            )
        tensors[step.tensor] = decode(letter.payload, message.wire, message.shape)
        self._pace.finish()
        return len(letter.payload), letter.arrived_ns

    def _merge(self, step: Merge, tensors: dict[str, Array]) -> Array:
        weights = self._shard.weights[step.parameter] if step.parameter else None
        return merge(step, [tensors[name] for name in step.inputs], weights)

    def describe(self, index: int) -> str:
        """A step as an error message names it."""
        step = self._shard.program[index]
        if isinstance(step, Compute):
            what = f"computing segment '{step.segment}' ({', '.join(self._layers(step.segment))})"
        elif isinstance(step, Send):
            what = f"sending '{step.tensor}' to {rank_name(step.to)}"
        elif isinstance(step, Recv):
            what = f"waiting for message {step.tag} from {rank_name(step.source)}"
        else:
            what = f"merging into '{step.output}'"
        return f"step {index} of {len(self._shard.program)}, {what}"

    def _layers(self, segment: str) -> tuple[str, ...]:
        return self._shard.manifest.segments[segment].layers


def rank_name(rank: int) -> str:
    return "the client" if rank < 0 else f"device {rank}"


def error_code(error: Exception) -> str:
    """How a failure is called on the wire (``events.ErrorCode``)."""
    if isinstance(error, DeadlineError):
        return "deadline"
    if isinstance(error, RemoteProtocolError):
        return "protocol"
    return "peer-lost" if isinstance(error, ExchangeError) else "compute"


def error_text(error: Exception) -> str:
    """What a failure says; errors that are not ours carry their class too."""
    return str(error) if isinstance(error, SepnasError) else f"{type(error).__name__}: {error}"


def _last_uses(program: tuple[Step, ...]) -> list[list[str]]:
    """For each step the tensors that no later step uses."""
    last: dict[str, int] = {}
    for index, step in enumerate(program):
        if isinstance(step, Send | Recv):
            last[step.tensor] = index
        else:
            last.update(dict.fromkeys((*step.inputs, step.output), index))
    drops: list[list[str]] = [[] for _ in program]
    for name, index in last.items():
        drops[index].append(name)
    return drops
