"""The bench of an emulated cluster beside the simulator's prediction, for ``sepnas bench --emulate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sepnas.cost.jitter import has_jitter, sampled_latencies_s
from sepnas.cost.simulator import simulate
from sepnas.cost.stream import simulate_stream
from sepnas.emulation.cluster import Setting
from sepnas.emulation.link_check import LinkCheck
from sepnas.runtime.client.bench import BenchResult, bench, measure_stream, random_inputs
from sepnas.runtime.client.session import Session


@dataclass(frozen=True)
class Predicted:
    """Statistics of the latency in seconds; without jitter they are equal."""

    median: float
    mean: float
    p95: float


@dataclass(frozen=True)
class EmulatedBench:
    """The bench on an emulated cluster.

    ``lateness`` is that of the measured requests, by rank; ``links`` holds the checks that were made before.
    """

    setting: Setting
    predicted: Predicted
    result: BenchResult
    lateness: Mapping[int, Mapping[str, Mapping[str, float]]]
    links: Sequence[LinkCheck] = ()

    def measured(self) -> Predicted:
        """The same statistics of the measured latency."""
        result = self.result
        return Predicted(result.latency_median_s, result.latency_mean_s, result.latency_p95_s)

    def ratios(self) -> dict[str, float]:
        """Measured latency divided by predicted latency."""
        predicted = asdict(self.predicted)
        return {name: value / predicted[name] for name, value in asdict(self.measured()).items()}

    def stream_predicted(self) -> float | None:
        """Predicted samples a second of the stream; None without one."""
        if self.result.stream is None:
            return None
        setting = self.setting
        in_flight = self.result.stream.in_flight
        found = simulate_stream(setting.plan, setting.cluster, in_flight=in_flight, batch=setting.batch)
        return found.throughput_per_s * setting.batch

    def late(self, what: str) -> dict[str, float]:
        """Over all ranks: the number of timed and of late ``steps`` or ``messages``, and their total delay."""
        rows = [counts[what] for counts in self.lateness.values() if what in counts]
        return {key: sum(row[key] for row in rows) for key in ("timed", "late", "late_s")}

    def late_share(self, what: str) -> float:
        """The total delay of the ``steps`` or ``messages`` of a request, as a share of its latency."""
        return self.late(what)["late_s"] / self.result.requests / self.predicted.mean

    def to_data(self) -> dict[str, Any]:
        setting = self.setting
        return {"plan": setting.name, **self.result.to_data()} | {
            "latency_predicted_s": asdict(self.predicted),
            "measured_by_predicted": self.ratios(),
            "stream_predicted_samples_per_s": self.stream_predicted(),
            "emulation": {
                "cluster": setting.cluster.name,
                "shaping": setting.shaping,
                "why": setting.why,
                "steps": self.late("steps"),
                "messages": self.late("messages"),
                "lateness": {str(rank): counts for rank, counts in self.lateness.items()},
                "links": [asdict(link) for link in self.links],
            },
        }


def run_bench(
    setting: Setting,
    session: Session,
    requests: int,
    warmup: int,
    links: Sequence[LinkCheck] = (),
    in_flight: int = 1,
) -> EmulatedBench:
    """The usual bench, with the prediction for the emulated cluster beside it."""
    images = random_inputs(session.manifest, setting.batch)
    for _ in range(warmup):
        session.infer(images)
    before = session.lateness()
    result = bench(session, images, requests, warmup=0)
    after = session.lateness()
    lateness = {rank: _since(before[rank], after[rank]) for rank in after}
    if in_flight > 1:  # last: delays in a stream must not count above
        result = replace(result, stream=measure_stream(session, images, requests, in_flight))
    return EmulatedBench(setting, _predict(setting), result, lateness, links)


def _predict(setting: Setting) -> Predicted:
    if not has_jitter(setting.cluster):
        latency_s = simulate(setting.plan, setting.cluster, setting.batch).latency_s
        return Predicted(latency_s, latency_s, latency_s)
    latencies_s = sampled_latencies_s(setting.plan, setting.cluster, batch=setting.batch)
    return Predicted(float(np.median(latencies_s)), float(latencies_s.mean()), float(np.quantile(latencies_s, 0.95)))


def _since(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    return {what: {key: row[key] - before[what][key] for key in row} for what, row in after.items()}
