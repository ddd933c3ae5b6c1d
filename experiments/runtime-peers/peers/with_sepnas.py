"""sepnas as it is: workers over TLS 1.3, one for each part. The variant is the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contestant import Job, core_of
from measure import Array, Asking

from sepnas.local.processes import Launch, LocalWorkers
from sepnas.runtime.client.bench import measure_stream
from sepnas.runtime.client.session import Session

IN_FLIGHT = 4


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    deployment = job.folder / f"{job.key}-deployment"
    launches = [
        Launch(prefix=("taskset", "--cpu-list", str(core_of(rank))), options=("--engine", job.variant))
        for rank in range(job.processes)
    ]
    with (
        LocalWorkers(deployment, job.processes, launches) as workers,
        Session(deployment, workers.hosts, timeout_s=60.0) as session,
    ):

        def stream(request: Array, requests: int) -> float:
            return measure_stream(session, request, requests, IN_FLIGHT).samples_per_s

        yield Asking(session.infer, stream=stream, facts={"payload_bytes_of_the_plan": session.manifest.payload_bytes})
