"""The number of torch threads for a network."""

from __future__ import annotations

import os

import torch

from sepnas.separable.architecture import Architecture
from sepnas.separable.layers import count_macs
from sepnas.train.processes import is_alone

MACS_WORTH_THREADS = 2_000_000
"""MACs per image below which a second thread gains nothing; on a busy machine, threads that spin while they wait for
each other then make a step up to 60 times slower (the command ``sepnas`` lets them sleep)."""


def use_threads_for(architecture: Architecture, threads: int | None = None) -> int:
    """Set torch's number of threads for a network and return it.

    Without ``threads``: one for a small network, else all cores, shared by the ``torchrun`` processes of this machine.
    """
    return use_threads_for_macs(
        sum(count_macs(architecture, rank) for rank in range(architecture.num_devices)), threads
    )


def use_threads_for_macs(macs: int, threads: int | None = None) -> int:
    """As :func:`use_threads_for`, for a network of ``macs`` an image."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = 1 if is_alone() else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = threads or (1 if macs < MACS_WORTH_THREADS else max(1, cores // beside))
    torch.set_num_threads(chosen)
    return chosen
