"""Runs one device's program for one request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import TypeAlias

import numpy as np

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError, SepnasError
from sepnas.plan.merges import merge
from sepnas.plan.steps import Compute, Merge, Recv, Send, Slice, Step
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.protocol.events import Data, FailureCode, PartialData
from sepnas.runtime.protocol.names import rank_name
from sepnas.runtime.protocol.times import StepTime
from sepnas.runtime.tensors.codec import Array, Payload, decode, encode
from sepnas.runtime.worker.mailbox import Letter, Mailbox
from sepnas.runtime.worker.pace import FreePace, Pace
from sepnas.runtime.worker.patience import Patience, optional_tensors

Post: TypeAlias = Callable[[int, Data], None]
"""Queues a message for a rank; does not wait."""


@dataclass
class Run:
    """A request on this device; times are ``time.monotonic`` seconds.

    ``tolerant``: it goes on without messages that are late or lost; the devices ``without`` take no part. Who is in
    ``silent``, these and who was late once since the request ``arrived``, is not waited for. ``missing`` are the
    tensors it went without; ``partial``: there are some, or what came was partial. ``logits`` are what the device sent
    on as its own answer.
    """

    request: int
    batch: int
    deadline: float
    tolerant: bool = False
    without: frozenset[int] = frozenset()
    arrived: float = math.inf
    silent: set[int] = field(init=False)
    tensors: dict[str, Array] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    partial: bool = False
    logits: Payload | None = None

    def __post_init__(self) -> None:
        self.silent = set(self.without)


OnMissed: TypeAlias = Callable[[int, Recv], None]
"""Called with the request and the step that went without its message."""


class StepError(Exception):
    """A step failed; ``error`` says how, ``step`` is its place in the program."""

    def __init__(self, step: int, error: Exception, waiting_for: int | None = None) -> None:
        super().__init__(str(error))
        self.step, self.error, self.waiting_for = step, error, waiting_for


class Executor:
    """Carries out the steps of a shard, one request at a time.

    Tensors are dropped after the last step that uses them: the peak of memory is that of the plan.
    """

    def __init__(
        self,
        shard: Shard,
        engine: Engine,
        mailbox: Mailbox,
        post: Post,
        pace: Pace | None = None,
        on_missed: OnMissed = lambda request, step: None,
    ) -> None:
        self._shard, self._engine, self._mailbox, self._post = shard, engine, mailbox, post
        self._pace, self._on_missed = pace or FreePace(), on_missed
        self._drop_after = _last_uses(shard.program)
        self._optional, self._patience = optional_tensors(shard.program), Patience(len(shard.program))
        self._fallbacks = frozenset(shard.manifest.fallbacks)
        self._late_at: dict[int, float] = {}
        self._shapes = shard.shapes

    def run(self, run: Run) -> list[StepTime]:
        """Run the whole program; raises :class:`StepError`."""
        times: list[StepTime] = []
        begun_ns = time.monotonic_ns()
        self._pace.begin(run.batch)
        if run.tolerant:
            run.silent |= {source for source, found in self._late_at.items() if run.arrived < found}
            self._patience.begin(run.batch, begun_ns / 1e9, run.deadline)
        for index, step in enumerate(self._shard.program):
            start = time.monotonic_ns()
            self._pace.start(index)
            try:
                size, arrived = self._do(index, step, run)
            except Exception as error:
                raise StepError(index, error, step.source if isinstance(step, Recv) else None) from error
            times.append(StepTime(index, start, time.monotonic_ns(), size, arrived))
            for name in self._drop_after[index]:
                run.tensors.pop(name, None)  # what is missing was never there
        if run.tolerant and not run.partial:
            self._patience.learn(run.batch, begun_ns, times)
        return times

    def _do(self, index: int, step: Step, run: Run) -> tuple[int, int | None]:
        """Carry out one step; payload bytes and the time of arrival for the trace."""
        if isinstance(step, Compute):
            made = self._engine.run(step.segment, [run.tensors[name] for name in step.inputs])
            for name, array in zip(step.outputs, made, strict=True):
                run.tensors[name] = array.reshape(run.batch, *self._shapes[name].dims)
        elif isinstance(step, Slice):
            run.tensors[step.output] = run.tensors[step.tensor][step.region.slices]
        elif isinstance(step, Send):
            return self._send(step, run), None
        elif isinstance(step, Recv):
            return self._receive(index, step, run)
        else:
            run.tensors[step.output] = self._merge(step, run)
        self._pace.finish()
        return 0, None

    def _send(self, step: Send, run: Run) -> int:
        values = run.tensors[step.tensor][step.region.slices]
        payload = encode(values, step.wire, self._shard.scale(step))
        if step.tag in self._fallbacks:
            run.logits = payload
        self._pace.finish()
        if step.to in run.without:
            return 0
        kind = PartialData if run.partial else Data
        self._post(step.to, kind(run.request, step.tag, payload))
        return len(payload)

    def _receive(self, index: int, step: Recv, run: Run) -> tuple[int, int | None]:
        letter = self._letter(index, step, run)
        if letter is None:
            run.missing.add(step.tensor)
            run.partial = True
            if step.source not in run.without:
                run.silent.add(step.source)
                self._late_at[step.source] = time.monotonic()
                self._on_missed(run.request, step)
            self._pace.arrived(time.monotonic_ns())
            self._pace.finish()
            return 0, None
        run.partial |= letter.partial
        self._pace.arrived(letter.arrived_ns)
        message = self._shard.messages[step.tag]
        tensor = decode(letter.payload, message.wire, message.shape, self._shard.scale(message))
        if len(tensor) != run.batch:
            raise RemoteProtocolError(
                f"message {step.tag} from rank {step.source} has {len(letter.payload)} bytes; "
                f"{message.payload_bytes(run.batch)} were due for a batch of {run.batch}"
            )
        run.tensors[step.tensor] = tensor
        self._pace.finish()
        return len(letter.payload), letter.arrived_ns

    def _letter(self, index: int, step: Recv, run: Run) -> Letter | None:
        """None: the step goes without it."""
        if not run.tolerant or step.tensor not in self._optional:
            return self._mailbox.take(run.request, step.tag, run.deadline)
        until = 0.0 if step.source in run.silent else self._patience.until(index)
        return self._mailbox.wait(run.request, step.tag, until, step.source)

    def _merge(self, step: Merge, run: Run) -> Array:
        weights = self._shard.weights[step.parameter] if step.parameter else None
        there = [name not in run.missing for name in step.inputs]
        if weights is not None:
            weights = weights[np.array(there[1:], bool)]
        inputs = [run.tensors[name] for name in compress(step.inputs, there)]
        return merge(step, self._shapes[step.output], inputs, weights)

    def describe(self, index: int) -> str:
        """A step as an error message names it."""
        step = self._shard.program[index]
        if isinstance(step, Compute):
            what = f"computing segment '{step.segment}' ({', '.join(self._layers(step.segment))})"
        elif isinstance(step, Send):
            what = f"sending '{step.tensor}' to {rank_name(step.to)}"
        elif isinstance(step, Recv):
            what = f"waiting for message {step.tag} from {rank_name(step.source)}"
        elif isinstance(step, Slice):
            what = f"taking '{step.output}' from '{step.tensor}'"
        else:
            what = f"merging into '{step.output}'"
        return f"step {index} of {len(self._shard.program)}, {what}"

    def _layers(self, segment: str) -> tuple[str, ...]:
        return self._shard.manifest.segments[segment].layers


def error_code(error: Exception) -> FailureCode:
    """How a failure is called on the wire (``events.ErrorCode``), and counted."""
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
        last.update(dict.fromkeys((*step.reads, *step.writes), index))
    drops: list[list[str]] = [[] for _ in program]
    for name, index in last.items():
        drops[index].append(name)
    return drops
