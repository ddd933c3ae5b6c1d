"""Exact prices: a plan is lowered and simulated, and its costs are those that `sepnas simulate` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sepnas.cost.simulator import Simulation, simulate
from sepnas.cost.stream import simulate_stream
from sepnas.objectives import THROUGHPUT_PER_S, costs_of
from sepnas.plan.liveness import devices_used
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster

WINDOWS = 3
"""Number of requests for a throughput, over those in flight: the first half fills the pipeline."""


@dataclass(frozen=True)
class Alternative:
    """A plan with its predicted costs.

    ``scheme`` is that of the registry, ``no split``, ``mixed`` (several schemes), ``stages`` (a pipeline of groups), or
    the file of a given plan. ``shares`` are those of the scheme, by device; empty if it has none. ``costs`` are the
    values of objectives by name; the throughput is that with ``in_flight`` requests. ``missing_bytes`` is what the
    device that is shortest of memory lacks.
    """

    scheme: str
    devices: tuple[int, ...]
    shares: tuple[float, ...]
    plan: Plan
    simulation: Simulation
    costs: Mapping[str, float]
    in_flight: int
    missing_bytes: int

    @property
    def fits(self) -> bool:
        """Whether each device has the memory for its part."""
        return not self.missing_bytes

    def streamed(self, cluster: Cluster) -> Alternative:
        """The same with its throughput."""
        if THROUGHPUT_PER_S.name in self.costs:
            return self
        stream = simulate_stream(self.plan, cluster, requests=WINDOWS * self.in_flight, in_flight=self.in_flight)
        return replace(self, costs={**self.costs, THROUGHPUT_PER_S.name: stream.throughput_per_s})


def priced(plan: Plan, cluster: Cluster, scheme: str, shares: Mapping[int, float]) -> Alternative:
    """Price a plan, but for its throughput; :class:`PlanError` if the cluster lacks a link for one of its messages."""
    simulation = simulate(plan, cluster)
    devices = devices_used(plan)
    needed = zip(simulation.peak_memory_bytes, cluster.devices, strict=False)
    return Alternative(
        scheme=scheme,
        devices=devices,
        shares=tuple(shares[rank] for rank in devices) if set(devices) <= set(shares) else (),
        plan=plan,
        simulation=simulation,
        costs=costs_of(simulation),
        in_flight=2 * len(devices),
        missing_bytes=max(0, max(nbytes - device.memory_bytes for nbytes, device in needed)),
    )
