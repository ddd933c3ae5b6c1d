"""Workers that can be killed, frozen and started again where they were."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from typing_extensions import Self

from sepnas.local.processes import START_TIMEOUT_S, Launch, WorkerProcess
from sepnas.spec.hosts import Hosts, parse_address


class Devices:
    """A ``sepnas worker`` process for each device, on 127.0.0.1 unless ``launches`` say otherwise."""

    def __init__(self, deployment: Path, num_devices: int, launches: list[Launch] | None = None) -> None:
        self._launches = launches or [Launch(options=("--engine", "onnxruntime"))] * num_devices
        self._folders = [deployment / f"device{rank}" for rank in range(num_devices)]
        self._workers: dict[int, WorkerProcess] = {}
        self._ports = [0] * num_devices

    def __enter__(self) -> Self:
        for rank in range(len(self._folders)):
            self.start(rank)
        addresses = zip(self._launches, self._ports, strict=True)
        self.hosts = Hosts.on([f"{launch.host}:{port}" for launch, port in addresses])
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.end()

    def start(self, rank: int) -> float:
        """Start it where it was before; the time when it was ready."""
        launch = replace(self._launches[rank], port=self._ports[rank])
        worker = self._workers[rank] = WorkerProcess(self._folders[rank], launch)
        self._ports[rank] = parse_address(worker.address(time.monotonic() + START_TIMEOUT_S))[1]
        return time.monotonic()

    def signal(self, rank: int, number: int) -> None:
        self._workers[rank].process.send_signal(number)

    def reap(self, rank: int) -> None:
        """Wait for the end of one that was killed."""
        self._workers[rank].end()
