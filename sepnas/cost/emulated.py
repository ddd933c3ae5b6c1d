"""A cluster's numbers as the processes need them that emulate its devices."""

from __future__ import annotations

from pathlib import Path

from sepnas.cost.routes import Route, routes_of
from sepnas.cost.simulator import compute_seconds
from sepnas.errors import PlanError
from sepnas.plan.steps import CLIENT, Compute, Plan
from sepnas.spec.cluster import Cluster
from sepnas.spec.emulation import EmulatedLink, Emulation, Shaping


def step_seconds(plan: Plan, rank: int, cluster: Cluster, batch: int = 1) -> tuple[float, ...]:
    """What each step of a rank's program takes on its device, as the simulator has it; 0 for steps it gives no time."""
    device, segments = cluster.devices[rank], plan.segments[rank]
    return tuple(
        compute_seconds(segments[step.segment], device, batch) if isinstance(step, Compute) else 0.0
        for step in plan.programs[rank]
    )


def emulations(
    plan: Plan,
    cluster: Cluster,
    deployment_id: str,
    clock: Path,
    *,
    batch: int = 1,
    jitter_s: float = 0.0,
    shaping: Shaping = "process",
) -> dict[int, Emulation]:
    """One emulation for each rank of the plan, and one for the client (-1).

    ``jitter_s`` is added to every link, evenly from 0. Raises :class:`PlanError` when the cluster has fewer devices
    than the plan, or no link for a message.
    """
    if cluster.num_devices < plan.num_devices:
        raise PlanError(
            f"the plan needs {plan.num_devices} devices, but cluster '{cluster.name}' has {cluster.num_devices}"
        )
    ways = _ways(plan, cluster)
    num_resources = 1 + max((number for route in ways.values() for number in route.resources), default=-1)
    return {
        rank: Emulation(
            deployment_id=deployment_id,
            rank=rank,
            num_devices=plan.num_devices,
            batch=batch,
            steps_s=() if rank == CLIENT else step_seconds(plan, rank, cluster, batch),
            links=tuple(_link(route, peer, jitter_s) for (source, peer), route in ways.items() if source == rank),
            clock=str(clock),
            num_resources=num_resources,
            shaping=shaping,
            seed=rank + 1,
        )
        for rank in range(CLIENT, plan.num_devices)
    }


def _ways(plan: Plan, cluster: Cluster) -> dict[tuple[int, int], Route]:
    """Both directions of every connection that the plan needs and that costs anything."""
    routes = routes_of(cluster)
    pairs = {(m.source, m.destination) for m in plan.messages()}
    both = sorted(pairs | {(destination, source) for source, destination in pairs})
    return {pair: route for pair in both if (route := routes[pair]) is not None}


def _link(route: Route, peer: int, jitter_s: float) -> EmulatedLink:
    return EmulatedLink(
        peer=peer,
        bandwidth_bytes_per_s=route.bandwidth_bytes_per_s,
        latency_s=route.latency_s,
        jitter_s=jitter_s,
        message_overhead_s=route.message_overhead_s,
        resources=route.resources,
    )
