"""The times of operators on this machine, as the runtime's engine runs them.

A segment takes one call of the engine and its operators one after another. Segments of several equal operators tell
the two apart: the slope is the operator's time, the intercept the call's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sepnas.measure.probes import Probe, write_probes
from sepnas.measure.rounds import Rounds, Stop, Tick, measure_rounds, timed_once
from sepnas.plan.steps import Operator
from sepnas.runtime.engine_choice import make_engine
from sepnas.runtime.engines import Engine
from sepnas.spec.device_profile import OperatorTime
from sepnas.spec.manifest import EngineName

LARGE_MACS = 4_000_000
"""From here on an operator takes so long that a call beside it is nothing: it stands alone in its segment."""
SMALL_COPIES = 4
OVERHEAD_COPIES = (1, 2, 4, 8)
OVERHEAD_OPERATORS = (Operator("conv", 8, 8, height=8, width=8), Operator("add", 16, 16, height=8, width=8))
BLOCK = (
    Operator("conv", 64, 32, height=32, width=32),
    Operator("conv", 32, 32, kernel=3, groups=4, height=32, width=32),
    Operator("conv", 32, 64, height=32, width=32),
    Operator("add", 64, 64, height=32, width=32),
)
_LEAST_SHARE = 0.1
"""Of a segment's time, which is what its operators take at least, however noise has it."""


@dataclass(frozen=True)
class OperatorTimes:
    """What was measured. ``stable``: the medians stood still before the time was up."""

    rows: tuple[OperatorTime, ...]
    segment_overhead_s: float
    rounds: Rounds
    stable: bool


@contextmanager
def computing(engine: EngineName = "torch", threads: int = 1) -> Iterator[Callable[[], None]]:
    """A call that computes as a worker does between two messages: a block's layers, in the engine, by this thread."""
    probes = [Probe(each, 1) for each in BLOCK]
    with tempfile.TemporaryDirectory(prefix="sepnas-profile-") as folder:
        runner = _engine(engine, probes, Path(folder), threads)
        inputs = {probe: [probe.input()] for probe in probes}

        def compute() -> None:
            for probe in probes:
                runner.run(probe.name, inputs[probe])

        with _as_a_worker(runner):
            compute()
            yield compute


def measure_operators(
    operators: Sequence[Operator],
    stop: Stop,
    engine: EngineName = "torch",
    threads: int = 1,
    tick: Tick = lambda: None,
) -> OperatorTimes:
    """Time operators on one sample, on ``threads`` threads of the engine; the thread that calls does it.

    In onnxruntime an operator alone turns its tensors into blocks of channels and back, which those within a segment do
    not: there the sum of its operators is two to four times a segment's time (``sepnas profile device`` is torch's).

    A round runs each segment once, so caches hold what other segments left in them, as in a worker between two steps:
    called again and again the same segments take up to a third less, and very short ones a fraction.
    """
    probes = [Probe(each, 1 if each.macs >= LARGE_MACS else SMALL_COPIES) for each in operators]
    for_overhead = [Probe(each, copies) for each in OVERHEAD_OPERATORS for copies in OVERHEAD_COPIES]
    every = list(dict.fromkeys((*probes, *for_overhead)))
    with tempfile.TemporaryDirectory(prefix="sepnas-profile-") as folder:
        runner = _engine(engine, every, Path(folder), threads)
        tick()
        with _as_a_worker(runner):
            rounds = measure_rounds([_visit(runner, probe) for probe in every], stop, tick)
    took_s = dict(zip(every, rounds.medians_s(), strict=True))
    overhead_s = _overhead_s(took_s)
    rows = (_row(probe.operator, _operator_s(took_s[probe], probe.copies, overhead_s)) for probe in probes)
    return OperatorTimes(tuple(rows), overhead_s, rounds, rounds.is_stable(stop))


def _engine(engine: EngineName, probes: list[Probe], folder: Path, threads: int) -> Engine:
    return make_engine(engine, write_probes(probes, folder, engine), threads).engine


@contextmanager
def _as_a_worker(runner: Engine) -> Iterator[None]:
    """This thread as a worker's; torch's mode that drops denormals is the thread's own, and is taken back."""
    runner.prepare_thread()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _visit(runner: Engine, probe: Probe) -> Callable[[], Sequence[float]]:
    inputs = [probe.input()]
    return timed_once(lambda: runner.run(probe.name, inputs))


def _overhead_s(took_s: dict[Probe, float]) -> float:
    """The intercept over the number of operators, the median of the kinds that were tried; never negative."""
    found = []
    for each in OVERHEAD_OPERATORS:
        times = [took_s[Probe(each, copies)] for copies in OVERHEAD_COPIES]
        found.append(np.polyfit(OVERHEAD_COPIES, times, 1)[1])
    return max(0.0, float(np.median(found)))


def _operator_s(segment_s: float, copies: int, overhead_s: float) -> float:
    return max(segment_s - overhead_s, _LEAST_SHARE * segment_s) / copies


def _row(each: Operator, seconds: float) -> OperatorTime:
    return OperatorTime(**{name: getattr(each, name) for name in Operator.__slots__}, seconds=seconds)
