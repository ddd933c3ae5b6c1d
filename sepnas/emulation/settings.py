"""From a cluster and a plan to the settings of the processes that emulate its devices."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sepnas.cost.routes import Route, link_between, routes_of
from sepnas.cost.work import Work
from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.spec.cluster import Cluster, Link
from sepnas.spec.emulation import EmulatedLink, EmulatedThreads, Emulation, Shaping


def step_seconds(plan: Plan, cluster: Cluster, batch: int = 1) -> tuple[tuple[float, ...], ...]:
    """The simulated time of each step of each rank's program, in seconds; 0 for steps without a time."""
    return tuple(tuple(device.steps_s) for device in Work(plan, cluster, batch, with_tasks=True).devices)


def emulations(
    plan: Plan,
    cluster: Cluster,
    deployment_id: str,
    clock: Path,
    *,
    name: str = DEFAULT_PLAN,
    batch: int = 1,
    shaping: Shaping = "process",
) -> dict[int, Emulation]:
    """One emulation for each rank of the plan, called ``name`` in the deployment, and one for the client (-1).

    Raises :class:`PlanError` when the cluster has fewer devices than the plan, or no link for a message.
    """
    steps_s = step_seconds(plan, cluster, batch)
    ways = _ways(plan, cluster)
    links = {pair: _emulated_link(link, route, pair[1]) for pair, (link, route) in ways.items()}
    num_resources = 1 + max((number for link in links.values() for number in link.used()), default=-1)
    return {
        rank: Emulation(
            deployment_id=deployment_id,
            rank=rank,
            num_devices=plan.num_devices,
            plan=name,
            batch=batch,
            steps_s=() if rank == CLIENT else steps_s[rank],
            jitter=0.0 if rank == CLIENT else cluster.devices[rank].jitter,
            links=tuple(link for (source, _), link in links.items() if source == rank),
            clock=str(clock),
            num_resources=num_resources,
            shaping=shaping,
            seed=rank + 1,
        )
        for rank in range(CLIENT, plan.num_devices)
    }


def _ways(plan: Plan, cluster: Cluster) -> dict[tuple[int, int], tuple[Link, Route]]:
    """Both directions of every connection that the plan needs and that has a cost."""
    routes = routes_of(cluster)
    pairs = {(m.source, m.destination) for m in plan.messages()}
    both = sorted(pairs | {(destination, source) for source, destination in pairs})
    found = ((pair, link_between(cluster, *pair), routes[pair]) for pair in both)
    return {pair: (link, route) for pair, link, route in found if link is not None and route is not None}


def _emulated_link(link: Link, route: Route, peer: int) -> EmulatedLink:
    """The first resource of a route is its source's own; if it is used for sending only, it is not shared."""
    only_sends = link.duplex == "full" and link.medium != "shared"
    threads = None if route.threads is None else asdict(route.threads)
    if threads is not None:
        del threads["writer"]
    return EmulatedLink(
        peer=peer,
        bandwidth_bytes_per_s=route.bandwidth_bytes_per_s,
        latency_s=route.latency_s,
        jitter_s=route.jitter_s,
        message_overhead_s=route.message_overhead_s,
        queue=route.resources[0],
        buffered=link.duplex == "full" and link.medium == "switch",
        resources=route.resources[1:] if only_sends else route.resources,
        threads=None if threads is None else EmulatedThreads(**threads),
    )
