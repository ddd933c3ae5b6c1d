"""torch.distributed.pipelining over gloo: a process is a stage. The variant is the number of micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from contestant import Job, followers, join_group
from measure import Array, Asking
from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    """The answer comes back from the last stage: who asks is the first."""
    with followers(job):
        schedule, batch = make_schedule(job)
        last = job.processes - 1

        @torch.inference_mode()
        def ask(images: Array) -> Array:
            schedule.step(torch.from_numpy(images))
            logits_BK = torch.empty(batch, 10)
            dist.recv(logits_BK, last)
            return logits_BK.numpy()  # type: ignore[no-any-return]

        yield Asking(ask, batch)


@torch.inference_mode()
def follow(job: Job) -> None:
    schedule, _ = make_schedule(job)
    while True:
        logits_BK = schedule.step()
        if job.rank == job.processes - 1:
            dist.send(logits_BK, 0)


def make_schedule(job: Job) -> tuple[ScheduleGPipe, int]:
    batch = int(job.variant)
    cuts = dict.fromkeys(job.cuts(), SplitPoint.BEGINNING)
    join_group(job)
    stages = pipeline(job.original(), (torch.zeros(1, 1, 32, 32),), split_spec=cuts)
    stage = stages.build_stage(job.rank, torch.device("cpu"))
    return ScheduleGPipe(stage, batch), batch
