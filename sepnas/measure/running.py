"""Runs probes in an engine, called as a worker calls it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from sepnas.measure.probes import Probe, SideBySide, noise, write_probes
from sepnas.plan.operators import Operator
from sepnas.runtime.engines.choice import make_engine

_BLOCK = (
    Operator("conv", 64, 32, height=32, width=32),
    Operator("conv", 32, 32, kernel=3, groups=4, height=32, width=32),
    Operator("conv", 32, 64, height=32, width=32),
    Operator("add", 64, 64, height=32, width=32),
)


@contextmanager
def running(
    probes: Sequence[Probe],
    engine: str = "torch",
    threads: int = 1,
    enough: Callable[[int], bool] = lambda written: False,
) -> Iterator[list[Callable[[], object]]]:
    """Each probe as a call of the engine on one sample, in this thread, which is set up like a worker's meanwhile.

    There are fewer calls than probes if ``enough`` stopped the export (:func:`sepnas.measure.probes.write_probes`).
    """
    with tempfile.TemporaryDirectory(prefix="sepnas-profile-") as folder:
        shard = write_probes(probes, Path(folder), engine, enough)
        written = probes[: len(shard.manifest.segments)]
        runner = make_engine(engine, shard, threads).engine
        runner.prepare_thread()
        try:
            yield [partial(runner.run, probe.name, [noise(probe.input_shape)]) for probe in written]
        finally:
            torch.set_flush_denormal(False)  # torch's mode that flushes denormals is per thread


@contextmanager
def computing(engine: str = "torch", threads: int = 1) -> Iterator[Callable[[], None]]:
    """A call that computes as a worker does between two messages: a block's layers, in the engine, in this thread."""
    with running([SideBySide(each, 1) for each in _BLOCK], engine, threads) as calls:

        def compute() -> None:
            for call in calls:
                call()

        compute()
        yield compute
