"""Workers that can be killed, frozen and started again where they were."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from typing_extensions import Self

from sepnas.spec.hosts import Hosts

START_S = 60.0


class Devices:
    """A ``sepnas worker`` process for each device, on 127.0.0.1."""

    def __init__(self, deployment: Path, num_devices: int) -> None:
        self._deployment = deployment
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._addresses = dict.fromkeys(range(num_devices), "127.0.0.1:0")

    def __enter__(self) -> Self:
        for rank in self._addresses:
            self.start(rank)
        self.hosts = Hosts.on([self._addresses[rank] for rank in sorted(self._addresses)])
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def start(self, rank: int) -> float:
        """Start it where it was before; the time when it was ready."""
        command = (sys.executable, "-m", "sepnas", "worker", str(self._deployment / f"device{rank}"))
        listen = ("--listen", self._addresses[rank], "--engine", "onnxruntime")
        process = subprocess.Popen([*command, *listen], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._processes[rank] = process
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stdout is not None
        threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True).start()
        line = lines.get(timeout=START_S)
        self._addresses[rank] = line.split(" listens on ")[1].split()[0]
        return time.monotonic()

    def signal(self, rank: int, number: int) -> None:
        self._processes[rank].send_signal(number)

    def reap(self, rank: int) -> None:
        """Wait for the end of one that was killed."""
        self._processes[rank].wait()
