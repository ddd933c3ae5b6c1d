"""The worker as a process: loads the shard, prints one line when ready, and runs until SIGINT or SIGTERM."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from sepnas.errors import ListenError
from sepnas.runtime.engines.choice import make_engine
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.line_writer import announce
from sepnas.runtime.transport.handshake import is_loopback
from sepnas.runtime.transport.listening import listen_hint
from sepnas.runtime.worker.pace import EmulatedDevice
from sepnas.runtime.worker.server import Worker
from sepnas.runtime.worker.stats import WorkerStats
from sepnas.spec.hosts import parse_address


def run_worker(
    shard_dir: str | os.PathLike[str],
    listen: str,
    *,
    threads: int = 1,
    insecure: bool = False,
    engine: str | None = None,
    emulation: Callable[[Shard], EmulatedDevice] | None = None,
    metrics: str | None = None,
    host_names: Sequence[str] = (),
    hosts: str | os.PathLike[str] | None = None,
) -> None:
    """Serve a device's folder at ``listen`` (``HOST:PORT``) until SIGINT or SIGTERM; prints one line when ready.

    Args:
        engine: a registered engine's name; ``auto``: the fastest exact one, measured first; None: the first that can be
            used here.
        metrics: ``HOST:PORT`` for Prometheus; None serves no metrics.
        host_names: names under which metrics are served, besides this machine's addresses.

    The other arguments, and what is raised, are those of :class:`Worker`.
    """
    host, port = parse_address(listen, lowest_port=0)
    stats = WorkerStats()
    choice = _EngineChoice(engine, stats)
    with _collector_paused():
        if metrics is not None:
            _serve_metrics(stats, metrics, host_names)
        worker = Worker(
            shard_dir, host, port, threads=threads, insecure=insecure, engine=choice.make, emulation=emulation,
            stats=stats, hosts=hosts,
        )  # fmt: skip
    _stop_on_signals(worker)
    shard, how = worker.shard, "plain TCP, INSECURE" if insecure else "TLS 1.3"
    announce(
        f"sepnas worker: device {shard.rank} of {shard.manifest.num_devices} listens on {worker.address} ({how}; "
        f"deployment {shard.manifest.deployment_id[:16]}; engine {choice.told})"
    )
    worker.serve_forever()


class _EngineChoice:
    """Makes the engine that was asked for, and notes which one it is (``told`` in words)."""

    def __init__(self, wanted: str | None, stats: WorkerStats) -> None:
        self.told = ""
        self._wanted, self._stats = wanted, stats

    def make(self, shard: Shard, threads: int) -> Engine:
        chosen = make_engine(self._wanted, shard, threads)
        self.told, self._stats.engine = chosen.told, chosen.name
        return chosen.engine


def _stop_on_signals(worker: Worker) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _serve_metrics(stats: WorkerStats, address: str, host_names: Sequence[str]) -> None:
    from sepnas.runtime.worker.metrics import serve_metrics  # its library is loaded only when asked for

    host, port = parse_address(address)
    if not is_loopback(host):
        warnings.warn(f"metrics at {address}: no password and no TLS, whoever reaches it can read them", stacklevel=2)
    try:
        serve_metrics(stats, host, port, host_names)
    except (OSError, OverflowError) as error:
        raise ListenError(f"cannot serve metrics at {address}: {listen_hint(error, port, '--metrics')}") from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Load without garbage collection, and exempt what was loaded from later collections.

    An engine makes hundreds of thousands of objects that stay. Traversing them takes a third of the start, causes
    pauses within requests, and adds a second at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
