"""A trained network in four worker processes that are killed one after the other, beside the whole network."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cells import NUM_DEVICES, Cell

from sepnas.api import export
from sepnas.local.processes import START_TIMEOUT_S, Launch, WorkerProcess
from sepnas.nets.separable import SeparableNetwork
from sepnas.runtime.client.session import Session
from sepnas.spec.hosts import Hosts
from sepnas.train.checkpoint import load_network
from sepnas.train.evaluate import predict_logits
from sepnas.train.images import ImageData, Split

KILLED = (1, 3, 0)
"""One after the other; the last one is the reader, for whom the one that is left answers."""
BATCH = 50
TIMEOUT_S = 30.0
"""So that only devices that were killed are missing, also where the machine does other things."""
TRIES = 20


def through_processes(cell: Cell, images: Split, data: ImageData) -> list[dict[str, Any]]:
    """A row for no device lost, and one after each SIGKILL: what the processes answered, and the whole network."""
    network = load_network(cell.run)
    with tempfile.TemporaryDirectory(prefix="sepnas-degradation-") as name:
        folder = Path(name) / "deployment"
        export(cell.run, folder, engines=("onnxruntime",), on_missing="degrade")
        workers = [
            WorkerProcess(folder / f"device{rank}", Launch(options=("--engine", "onnxruntime")))
            for rank in range(NUM_DEVICES)
        ]
        try:
            limit = time.monotonic() + START_TIMEOUT_S
            hosts = Hosts.on([worker.address(limit) for worker in workers])
            with Session(folder, hosts, timeout_s=TIMEOUT_S) as session:
                rows = [compare(session, network, images, data, ())]
                for number, rank in enumerate(KILLED, start=1):
                    workers[rank].process.send_signal(signal.SIGKILL)
                    workers[rank].process.wait()
                    rows.append(compare(session, network, images, data, KILLED[:number]))
        finally:
            for worker in workers:
                worker.process.kill()
                worker.end()
    return rows


def compare(
    session: Session, network: SeparableNetwork, images: Split, data: ImageData, lost: tuple[int, ...]
) -> dict[str, Any]:
    """How the processes' answers differ from those of the whole network without the devices that are lost."""
    whole = predict_logits(network, images.images, data, lost=lost)
    devices = torch.cat([torch.from_numpy(ask(session, x.numpy(), lost)) for x in torch.split(images.images, BATCH)])
    off = float((devices - whole).abs().max() / whole.abs().max())
    return {
        "lost": "-".join(map(str, lost)) or "none",
        "images": len(images),
        "answers_that_differ": int((devices.argmax(1) != whole.argmax(1)).sum()),
        "largest_relative_difference_of_logits": off,
        "accuracy_processes": float((devices.argmax(1) == images.labels).double().mean()),
        "accuracy_whole": float((whole.argmax(1) == images.labels).double().mean()),
    }


def ask(session: Session, batch: npt.NDArray[np.uint8], lost: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The logits of an answer without just these devices: the first ones after a kill may have some of its messages."""
    for _ in range(TRIES):
        answer = session.ask(batch)
        if answer.without == tuple(sorted(lost)) and not answer.missing:
            return answer.logits
    raise SystemExit(f"no answer without {lost} in {TRIES} tries: {answer.without}, {answer.missing}")
