"""Worker processes on this machine, for the demo and for experiments."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sepnas.errors import PeerUnreachableError, SepnasError, how_it_ended
from sepnas.spec.hosts import Hosts

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
_KEPT_LINES = 50
_READY = re.compile(r"listens on (\S+)")


@dataclass(frozen=True)
class Launch:
    """How a worker process is started: ``prefix`` precedes its command, ``options`` follow it; port 0 is any port."""

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    port: int = 0


class LocalWorkers:
    """One ``sepnas worker`` process for each device of a deployment, on free ports of 127.0.0.1.

    ``launches``, one for each rank, change how they are started. Inside the ``with`` block ``hosts`` has their
    addresses; at its end they are stopped, also after an error. Raises :class:`PeerUnreachableError`, with the worker's
    last output, when one does not get ready.
    """

    def __init__(self, deployment: Path, num_devices: int, launches: Sequence[Launch] | None = None) -> None:
        self._folders = [deployment / f"device{rank}" for rank in range(num_devices)]
        self._launches = launches or [Launch()] * num_devices
        self._workers: list[WorkerProcess] = []
        self.hosts: Hosts

    def __enter__(self) -> Self:
        try:
            for folder, launch in zip(self._folders, self._launches, strict=True):
                with _signals_later():
                    self._workers.append(WorkerProcess(folder, launch))
            limit = time.monotonic() + START_TIMEOUT_S
            self.hosts = Hosts.on([worker.address(limit) for worker in self._workers])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SepnasError) and hasattr(error, "add_note"):  # Python 3.11
            for rank, worker in enumerate(self._workers):
                code = worker.process.poll()
                if code is not None:  # it ended by itself
                    error.add_note(f"device {rank}, a process of this machine: {how_it_ended(code)}: {worker.words}")
        self._stop()

    @property
    def pids(self) -> list[int]:
        """The processes, by rank."""
        return [worker.process.pid for worker in self._workers]

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM to the end of the block: a process that was just started must be recorded first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for number in came[:1]:
        signal.raise_signal(number)


class WorkerProcess:
    """One worker, and a thread that reads its output until it ends: a full pipe would block it."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        worker = [sys.executable, "-m", "sepnas", "worker", str(folder), "--listen", f"{launch.host}:{launch.port}"]
        command = [*launch.prefix, *worker, *launch.options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._address: str | None = None
        self._ready_or_over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def address(self, limit: float) -> str:
        """The address on which the worker listens; waits for it until ``limit``, a monotonic time."""
        self._ready_or_over.wait(max(0.0, limit - time.monotonic()))
        if self._address is None:
            raise PeerUnreachableError(
                f"worker process {self.process.pid}{self._end()} did not get ready: {self.words}"
            )
        return self._address

    @property
    def words(self) -> str:
        """The last lines of its output."""
        return " / ".join(self._said) or "no output"

    def _end(self) -> str:
        """How it ended, if it has closed its output."""
        if self._ready_or_over.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return f" ({how_it_ended(self.process.wait(STOP_TIMEOUT_S))})"
        return ""

    def end(self) -> None:
        """Wait for the process, which was told to end, and kill it if it does not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._said.append(line.rstrip())
                found = _READY.search(line)
                if found and self._address is None:
                    self._address = found[1]
                    self._ready_or_over.set()
        self._ready_or_over.set()
