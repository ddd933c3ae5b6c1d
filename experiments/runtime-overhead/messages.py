"""What a message costs between two workers, beside what it costs between two bare TLS sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median

from bare_tls import bare_tls

from sepnas.deploy.export import export_deployment
from sepnas.deployment.manifest import certificate_name
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.limits import MAX_TRACES
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import RequestRecord
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.policy import ExchangePoint, Readout, Transfer, TransmissionPolicy
from sepnas.train.checkpoint import new_network

SIZE_BYTES = 16 << 10
WARMUP = 30


def there_and_back(num_blocks: int = 30) -> Architecture:
    """Two devices that hardly compute: after each block one message of 16 KiB, in turn from either."""
    points = []
    for block in range(num_blocks):
        source = block % 2
        transfer = Transfer(source=source, destination=1 - source, fraction=(0.25, 0.5, 1.0)[3 * block // num_blocks])
        points.append(ExchangePoint(after=block, transfers=(transfer,)))
    return Architecture(
        name="there-and-back",
        depth=3 * num_blocks + 2,
        num_classes=2,
        in_channels=1,
        parts=(DevicePart(bottleneck_width=1, output_channels=16),) * 2,
        policy=TransmissionPolicy(points=tuple(points), readout=Readout(kind="mean")),
    )


def write_deployment(folder: Path) -> None:
    network = new_network(there_and_back()).eval()
    export_deployment(
        network, folder, name="there-and-back", classes=("0", "1"), mean=(0.0,), std=(1.0,), engines=("onnxruntime",)
    )


def worker_message_s(folder: Path) -> list[float]:
    """Of each request the mean over both directions of a message's median time: from the step that sends it until the
    step that waits for it has it. The errors of the two clocks cancel."""
    launches = [Launch(options=("--engine", "onnxruntime"))] * 2
    with (
        LocalWorkers(folder, 2, launches) as workers,
        Session(folder, devices=workers.hosts, timeout_s=10.0) as session,
    ):
        batch = random_inputs(session.manifest, 1)
        for _ in range(WARMUP + MAX_TRACES):
            session.infer(batch)
        return [_mean_message_s(request) for request in session.trace(last=MAX_TRACES).requests]


def _mean_message_s(request: RequestRecord) -> float:
    times: dict[int, list[float]] = {0: [], 1: []}
    for source, seconds in _messages(request):
        times[source].append(seconds)
    return fmean(median(some) for some in times.values())


def _messages(request: RequestRecord) -> Iterator[tuple[int, float]]:
    sends = {
        step.tag: (device.rank, step) for device in request.devices for step in device.steps if step.step == "send"
    }
    for device in request.devices:
        for step in device.steps:
            if step.step == "recv" and step.peer != CLIENT and step.payload_bytes == SIZE_BYTES:
                source, sent = sends[step.tag]
                if step.arrived_s is not None and step.arrived_s > step.start_s:  # it was waited for
                    yield source, step.end_s - sent.start_s


def bare_message_s(folder: Path, deployment_id: str, pause_s: float = 0.0, trips: int = 2000) -> list[float]:
    """As many bytes through bare sockets, there and back; both ends compute for ``pause_s`` before they send."""
    with bare_tls(folder / "device0/tls", certificate_name(0, deployment_id), SIZE_BYTES, pause_s) as link:
        for _ in range(trips // 10):
            link.one_way_s()
        return [link.one_way_s() for _ in range(trips)]
