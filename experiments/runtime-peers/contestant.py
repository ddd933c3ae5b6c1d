"""One contestant, in a network namespace of its own: its processes, and what its client measures.

``run.py`` starts it; by hand: ``python contestant.py pipelining --devices 2 --folder runs/runtime-peers``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import Array, measure
from torch import nn

from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.layers import device_layers
from sepnas.train.checkpoint import BEST, load_network

HERE = Path(__file__).resolve().parent
PORT = 29500
NETWORK = "resnext56_4x64d"


@dataclass(frozen=True)
class Job:
    """What a contestant has to do: run the network of so many ``parts`` (one: the original) in ``processes``.

    ``variant`` is its own word for one of several ways to do it.
    """

    folder: Path
    network: str
    parts: int
    processes: int
    variant: str
    rank: int

    @property
    def key(self) -> str:
        """How the files of this network begin."""
        return f"{self.network}-over{self.parts}"

    def load(self) -> SeparableNetwork:
        """The trained network, in eval mode."""
        return load_network(self.folder / self.key / BEST)

    def original(self) -> nn.Sequential:
        """The trained original as its layers: ``stem``, ``block0``, ..., ``head``."""
        network = self.load()
        return network.segment(0, tuple(layer.name for layer in device_layers(network.architecture, 0))).eval()

    def cuts(self) -> list[str]:
        """The first layers of all stages but the first, where each stage has about the same arithmetic."""
        layers = device_layers(self.load().architecture, 0)
        total, done, found = sum(layer.macs for layer in layers), 0, []
        for layer in layers:
            if done >= total * (len(found) + 1) / self.processes:
                found.append(layer.name)
            done += layer.macs
        return found


@contextmanager
def followers(job: Job) -> Iterator[None]:
    """The other ranks of a contestant of several processes; they end with it, whatever happens."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, job.processes):
            processes.append(subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)]))
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def join_group(job: Job) -> None:
    """torch.distributed over gloo on the loopback; a core for each rank, as far as there are."""
    import torch.distributed as dist

    pin(job.rank)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=job.rank, world_size=job.processes)


def follow_group(network: nn.Module) -> None:
    """Run it on every image that rank 0 broadcasts, until this process is ended."""
    import torch.distributed as dist

    x_BCHW = torch.empty(1, 1, 32, 32)
    while True:
        dist.broadcast(x_BCHW, 0)
        network(x_BCHW)


def pin(rank: int) -> None:
    """Run on one core."""
    os.sched_setaffinity(0, {core_of(rank)})


def core_of(rank: int) -> int:
    cores = sorted(os.sched_getaffinity(0))
    return cores[rank % len(cores)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(path.stem for path in (HERE / "peers").glob("[a-z]*.py")))
    parser.add_argument("--folder", type=Path, required=True, help="where run.py keeps the networks")
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--variant", default="")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the row there too")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)  # as workers do: a number near zero must not cost one contestant more
    job = Job(chosen.folder, chosen.network, chosen.parts, chosen.processes, chosen.variant, chosen.rank)
    peer = importlib.import_module(f"peers.{chosen.name}")
    if job.rank:
        peer.follow(job)
        return
    images, expected = (load_array(chosen.folder / f"{job.key}-{name}.npy") for name in ("requests", "expected"))
    with peer.asking(job) as asking:
        row = json.dumps(measure(asking, images, expected, chosen.requests, chosen.warmup))
    if chosen.out:
        chosen.out.write_text(row)
    print(row)


def load_array(path: Path) -> Array:
    found: Array = np.load(path, allow_pickle=False)
    return found


if __name__ == "__main__":
    main()
