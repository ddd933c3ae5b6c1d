"""The package ``tensor_parallel``. Variants: ``threads`` of one process, as it is meant to be, or ``gloo``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from contestant import Job, follow_group, followers, join_group
from measure import Array, Asking
from torch import nn

from sepnas.train.vision import import_torchvision

DEVICES = 2


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    with followers(job):
        network = make_network(job)

        @torch.inference_mode()
        def ask(images: Array) -> Array:
            x_BCHW = torch.from_numpy(images)
            if job.processes > 1:
                dist.broadcast(x_BCHW, 0)
            logits: Array = network(x_BCHW).numpy()
            return logits

        yield Asking(ask)


@torch.inference_mode()
def follow(job: Job) -> None:
    follow_group(make_network(job))


def make_network(job: Job) -> nn.Module:
    import_torchvision("ops")  # the package imports transformers, that imports torchvision
    import tensor_parallel

    if job.variant == "threads":
        return tensor_parallel.tensor_parallel(job.original(), ["cpu"] * DEVICES, sharded=False)
    join_group(job)
    shard, _ = tensor_parallel.tensor_parallel(job.original(), distributed=True)  # and not the module that it promises
    return shard
