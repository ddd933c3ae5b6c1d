"""Measuring a session: latency and throughput of many requests, and bytes on the network."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sepnas.deployment.manifest import Manifest
from sepnas.errors import DataError
from sepnas.plan.serial import message_from_data
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.inputs import Inputs, prepare_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.tensors.codec import Array, Images, is_image
from sepnas.runtime.transport.counters import Counters


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Throughput with ``in_flight`` requests on their way, over the second half of the requests."""

    in_flight: int
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Latency at the client, one request after the other; ``stream``: throughput with several on their way.

    ``payload_bytes_per_request`` and ``frame_bytes_per_request`` (with headers) were counted on the sockets between the
    devices, ``input_bytes_per_request`` on those of the client; ``total_bytes_per_request`` is the payload of all
    messages. The ``predicted`` numbers are the plan's.
    """

    requests: int
    batch: int
    latency_mean_s: float
    latency_median_s: float
    latency_p95_s: float
    latency_p99_s: float
    latency_min_s: float
    samples_per_s: float
    payload_bytes_per_request: int
    frame_bytes_per_request: int
    payload_bytes_predicted: int
    input_bytes_per_request: int
    input_bytes_predicted: int
    total_bytes_per_request: int
    total_bytes_predicted: int
    counters: Counters
    stream: StreamResult | None = None

    def to_data(self) -> dict[str, Any]:
        return asdict(self) | {"counters": self.counters.to_data()}


def bench(session: Session, batch: Inputs, requests: int = 100, warmup: int = 10, in_flight: int = 1) -> BenchResult:
    """Run ``warmup`` requests and then ``requests`` timed ones with the same batch; with ``in_flight`` above 1, then as
    many again as a stream."""
    if requests < 1 or warmup < 0:
        raise DataError(f"`requests` must be at least 1 and `warmup` 0, got {requests} and {warmup}")
    samples = num_samples(session, batch)
    input_bytes, total_bytes = _predicted_bytes(session, batch)
    for _ in range(warmup):
        session.ask(batch)
    before = session.counters()
    times = np.array([_timed(session, batch) for _ in range(requests)])
    after = session.counters()
    return BenchResult(
        requests=requests,
        batch=samples,
        latency_mean_s=float(times.mean()),
        latency_median_s=float(np.median(times)),
        latency_p95_s=float(np.quantile(times, 0.95)),
        latency_p99_s=float(np.quantile(times, 0.99)),
        latency_min_s=float(times.min()),
        samples_per_s=float(requests * samples / times.sum()),
        payload_bytes_per_request=(after.payload_bytes - before.payload_bytes) // requests,
        frame_bytes_per_request=(after.wire_bytes - before.wire_bytes) // requests,
        payload_bytes_predicted=session.manifest.plan(session.plans[0]).payload_bytes * samples,
        input_bytes_per_request=(after.input_bytes - before.input_bytes) // requests,
        input_bytes_predicted=input_bytes,
        total_bytes_per_request=(after.total_bytes - before.total_bytes) // requests,
        total_bytes_predicted=total_bytes,
        counters=after,
        stream=measure_stream(session, batch, requests, in_flight) if in_flight > 1 else None,
    )


def measure_stream(session: Session, batch: Inputs, requests: int, in_flight: int) -> StreamResult:
    """Stream the same batch ``requests`` times."""
    samples = num_samples(session, batch)
    start = time.perf_counter()
    answered = [start, *(time.perf_counter() for _ in session.answers(itertools.repeat(batch, requests), in_flight))]
    first = requests // 2
    return StreamResult(in_flight, (requests - first) * samples / (answered[-1] - answered[first]))


def _predicted_bytes(session: Session, batch: Inputs) -> tuple[int, int]:
    """Payload bytes of the input, and of all messages, for this batch."""
    prepared = prepare_inputs(batch, session.manifest.inputs_of(session.plans[0]))
    normalised = not any(map(is_image, prepared.values()))
    messages = [message_from_data(data) for data in session.manifest.plan(session.plans[0]).messages]
    samples = len(next(iter(prepared.values())))
    sizes = [(m.source, m.sent_as(normalised).payload_bytes(samples)) for m in messages]
    return sum(size for source, size in sizes if source == CLIENT), sum(size for _, size in sizes)


def random_inputs(manifest: Manifest, batch: int, seed: int = 0, plan: str | None = None) -> Inputs:
    """As :func:`random_batch`, with images as bytes (uint8)."""
    return _random(manifest, batch, seed, plan, images_as_bytes=True)


def random_batch(manifest: Manifest, batch: int, seed: int = 0, plan: str | None = None) -> Inputs:
    """A batch of normalised noise for the input of a plan, or for each of its inputs by name, ``(batch, *shape)``; for
    measurements that ignore the answer."""
    return _random(manifest, batch, seed, plan, images_as_bytes=False)


def _random(manifest: Manifest, batch: int, seed: int, plan: str | None, images_as_bytes: bool) -> Inputs:
    draw, found = np.random.default_rng(seed), dict[str, Array | Images]()
    for name, facts in manifest.inputs_of(plan).items():
        shape = (batch, *facts.shape.dims)
        if images_as_bytes and facts.image is not None:
            found[name] = draw.integers(0, 256, shape, np.uint8)
        else:
            found[name] = draw.standard_normal(shape, dtype=np.float32)
    return next(iter(found.values())) if len(found) == 1 else found


def num_samples(session: Session, batch: Inputs) -> int:
    """The number of samples in a batch; raises :class:`DataError` if it is none of the session's first plan."""
    return len(next(iter(prepare_inputs(batch, session.manifest.inputs_of(session.plans[0])).values())))


def _timed(session: Session, batch: Inputs) -> float:
    start = time.perf_counter()
    session.ask(batch)
    return time.perf_counter() - start
