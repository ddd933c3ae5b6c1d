"""Worker processes on this machine, for a demonstration or an experiment: started, waited for, ended by id."""

from __future__ import annotations

import contextlib
import re
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sepnas.errors import PeerUnreachableError
from sepnas.spec.hosts import Hosts

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0
_READY = re.compile(r"listens on (\S+)")


class LocalWorkers:
    """One ``sepnas worker`` process for each device of a deployment, on free ports of 127.0.0.1.

    Inside the ``with`` block ``hosts`` says where they listen; at its end they are stopped, also after an error.
    Raises :class:`PeerUnreachableError` with a worker's own words when it does not get ready.
    """

    def __init__(self, deployment: Path, num_devices: int) -> None:
        self._folders = [deployment / f"device{rank}" for rank in range(num_devices)]
        self._processes: list[subprocess.Popen[str]] = []
        self.hosts: Hosts

    def __enter__(self) -> Self:
        try:
            for folder in self._folders:
                command = [sys.executable, "-m", "sepnas", "worker", str(folder), "--listen", "127.0.0.1:0"]
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                self._processes.append(process)
            limit = time.monotonic() + START_DEADLINE_S
            self.hosts = Hosts.on([_address(process, limit) for process in self._processes])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_DEADLINE_S)
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _address(process: subprocess.Popen[str], limit: float) -> str:
    """Where the worker listens, from the line that says it is ready."""
    assert process.stdout is not None
    said = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, limit - time.monotonic())):
            line = process.stdout.readline()
            found = _READY.search(line)
            if found:
                return found[1]
            if not line:
                break
            said.append(line.rstrip())
    words = " / ".join(said) or "it said nothing"
    raise PeerUnreachableError(f"worker process {process.pid} did not get ready: {words}")
