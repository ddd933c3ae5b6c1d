"""Predicts one request on a cluster: simulation and lower bound, optionally a percentile and a stream of requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sepnas.cost.critical_path import critical_path_s
from sepnas.cost.jitter import latency_percentile
from sepnas.cost.simulator import Simulation, simulate
from sepnas.cost.stream import StreamSimulation, simulate_stream
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster


@dataclass(frozen=True)
class LatencyPercentile:
    """``percent`` of all answers take at most ``latency_s`` seconds."""

    percent: float
    latency_s: float


@dataclass(frozen=True)
class Prediction:
    """The cost of one request of ``batch`` images on ``cluster``.

    ``critical_path_s`` is the time of computation, bandwidth and latency alone, in seconds: messages take no processor
    time and never wait for each other.
    """

    plan: Plan
    cluster: Cluster
    batch: int
    simulation: Simulation
    critical_path_s: float
    percentile: LatencyPercentile | None = None
    stream: StreamSimulation | None = None

    @property
    def latency_s(self) -> float:
        """Seconds until the client has the answer."""
        return self.simulation.latency_s

    @property
    def payload_bytes(self) -> int:
        """Bytes of tensors between devices."""
        return self.simulation.payload_bytes

    @property
    def latency_over_critical_path(self) -> float | None:
        """The latency as a multiple of the critical path; None for a plan whose critical path takes 0 s."""
        return self.latency_s / self.critical_path_s if self.critical_path_s > 0 else None

    def to_data(self) -> dict[str, Any]:
        """All figures as JSON, without the stream's individual latencies; the energy of a device without power figures
        is None."""
        has_power = [device.has_figures("power") for device in self.cluster.devices]
        energy_j = zip(self.simulation.energy_j, has_power, strict=False)  # a cluster may have more devices
        data = asdict(self.simulation) | {
            "threads": list(self.cluster.threads[: self.plan.num_devices]),
            "energy_j": [joules if known else None for joules, known in energy_j],
            "input_bytes": self.simulation.input_bytes,
            "output_bytes": self.simulation.output_bytes,
            "total_bytes": self.simulation.total_bytes,
            "critical_path_s": self.critical_path_s,
            "latency_over_critical_path": self.latency_over_critical_path,
        }
        if self.percentile is not None:
            data["percentile"] = asdict(self.percentile)
        if self.stream is not None:
            data["stream"] = {name: value for name, value in asdict(self.stream).items() if name != "latencies_s"}
        return data


def predict(
    plan: Plan,
    cluster: Cluster,
    batch: int = 1,
    *,
    percent: float | None = None,
    in_flight: int | None = None,
    timeline: bool = False,
) -> Prediction:
    """Simulate one request; with ``percent`` also a latency percentile, with ``in_flight`` a stream's throughput.

    Raises :class:`PlanError` for a cluster without the plan's devices or links, and :class:`SpecError`.
    """
    simulation = simulate(plan, cluster, batch, timeline=timeline)
    percentile = stream = None
    if percent is not None:
        percentile = LatencyPercentile(percent, latency_percentile(plan, cluster, percent, batch=batch))
    if in_flight is not None:
        stream = simulate_stream(plan, cluster, in_flight=in_flight, batch=batch)
    return Prediction(plan, cluster, batch, simulation, critical_path_s(plan, cluster, batch), percentile, stream)
