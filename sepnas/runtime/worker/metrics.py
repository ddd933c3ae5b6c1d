"""A worker's stats for Prometheus; the only module that needs ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import sepnas
from sepnas.runtime.transport.served_names import ServedNames
from sepnas.runtime.worker.metrics_server import MetricsServer
from sepnas.runtime.worker.stats import REQUEST_BUCKETS_S, WorkerStats
from sepnas.runtime.worker.vitals import memory_bytes, temperature_c


def serve_metrics(stats: WorkerStats, host: str, port: int, host_names: Sequence[str] = ()) -> MetricsServer:
    """Answer Prometheus at ``http://host:port/metrics`` from a thread of its own; raises ``OSError``.

    Requests must name the machine by its addresses, by ``host`` or by one of ``host_names``.
    """
    registry = CollectorRegistry()
    registry.register(StatsCollector(stats))
    server = MetricsServer(host, port, make_wsgi_app(registry), ServedNames((host, *host_names)))
    server.start()
    return server


class StatsCollector(Collector):
    """Reads the stats when it is scraped; serving requests costs nothing for it."""

    def __init__(self, stats: WorkerStats) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Nothing, so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        about = {"rank": str(stats.rank), "engine": stats.engine, "version": sepnas.__version__}
        yield InfoMetricFamily("sepnas_worker", "Rank, engine and version of this worker.", value=about)
        yield CounterMetricFamily("sepnas_requests", "Requests that this device served.", value=stats.served)
        failures = CounterMetricFamily("sepnas_request_failures", "Requests that failed, by code.", labels=["code"])
        for code, count in stats.failed.items():
            failures.add_metric([code], count)
        yield failures
        yield CounterMetricFamily("sepnas_messages_missed", "Messages that it went on without.", value=stats.missed)
        up = float(stats.session is not None)
        yield GaugeMetricFamily("sepnas_session_up", "1 while a client's session is served.", value=up)
        yield self._request_seconds()
        yield from self._payload_bytes()
        yield from _of_the_machine()

    def _request_seconds(self) -> Metric:
        ends = [*map(str, REQUEST_BUCKETS_S), "+Inf"]
        buckets = list(zip(ends, accumulate(self._stats.requests_by_time), strict=True))
        text = "Time from the arrival of a served request to the end of the device's part."
        return HistogramMetricFamily("sepnas_request_seconds", text, buckets=buckets, sum_value=self._stats.request_s)

    def _payload_bytes(self) -> Iterator[Metric]:
        text = "Bytes of tensors, without headers, by peer."
        sent = CounterMetricFamily("sepnas_payload_sent_bytes", text, labels=["peer"])
        received = CounterMetricFamily("sepnas_payload_received_bytes", text, labels=["peer"])
        for rank, found in self._stats.payload_bytes().items():
            peer = ["client" if rank < 0 else str(rank)]
            sent.add_metric(peer, found.sent)
            received.add_metric(peer, found.received)
        yield sent
        yield received


def _of_the_machine() -> Iterator[Metric]:
    """Metrics of the machine, where the system has them."""
    memory, temperature = memory_bytes(), temperature_c()
    if memory is not None:
        yield GaugeMetricFamily("sepnas_process_memory_bytes", "Resident memory of the worker.", value=memory)
    if temperature is not None:
        yield GaugeMetricFamily("sepnas_temperature_celsius", "The machine's hottest zone.", value=temperature)
