"""Prices every registered scheme of an imported network over one to all devices of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sepnas.assign.assignment import assignment_of
from sepnas.assign.proposal import MIXED, NO_SPLIT
from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SearchError
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, on_one_device, partition
from sepnas.plan.plan import Plan
from sepnas.report.comparison.values import PricedPlan, RefusedSplit, priced
from sepnas.spec.cluster import Cluster, Device
from sepnas.units import format_count

SEARCHED = "searched"
"""The series of the splits that a search found."""
Accuracy = tuple[float, str] | None
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class PricedSplit:
    """A split of a network with its plan; ``scheme`` is empty for one device alone."""

    scheme: str
    plan: Plan
    price: PricedPlan


def alone(graph: Graph, cluster: Cluster, accuracy: Accuracy = None) -> PricedSplit:
    """The network on the device that computes it fastest alone, with all of its cores."""
    where = with_all_cores(cluster)
    plans = {rank: on_one_device(graph, rank, where.num_devices) for rank in _different(where.devices)}
    found = {rank: simulate(plan, where) for rank, plan in plans.items()}
    best = min(found, key=lambda rank: found[rank].latency_s)
    label = f"{where.devices[best].name} alone, {format_count(where.threads[best], 'thread')}"
    return PricedSplit("", plans[best], priced(plans[best], found[best], "alone", graph.name, "alone", label, accuracy))


def _different(devices: Sequence[Device]) -> list[int]:
    """The ranks of devices that differ in more than their names."""
    first: dict[str, int] = {}
    for rank, device in enumerate(devices):
        first.setdefault(device.model_copy(update={"name": "any"}).model_dump_json(), rank)
    return list(first.values())


def splits(
    graph: Graph, cluster: Cluster, counts: Iterable[int], accuracy: Accuracy = None, progress: Progress | None = None
) -> Iterator[PricedSplit | RefusedSplit]:
    """Each scheme over each number of devices: the first ones of the cluster, with shares as their speeds."""
    wanted = [(scheme, count) for scheme in SCHEMES for count in counts if count > 1]
    for done, (scheme, count) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), f"{graph.name}, {scheme} over {count}")
        try:
            plan = partition(graph, scheme, [device.flops_per_s for device in cluster.devices[:count]])
            found = simulate(plan, cluster)
        except PlanError as error:
            yield RefusedSplit(graph.name, scheme, count, str(error))
            continue
        label = f"{scheme} over {count}"
        yield PricedSplit(scheme, plan, priced(plan, found, "split", graph.name, scheme, label, accuracy))


def searched(
    graph: Graph, cluster: Cluster, accuracy: Accuracy = None, progress: Progress | None = None
) -> PricedSplit | RefusedSplit | None:
    """The best split that `sepnas partition` finds: schemes, devices, shares and mixtures; None if it is no split."""
    try:
        found = assignment_of(graph, cluster, show=progress or (lambda done, total, what: None)).chosen
    except SearchError as error:
        return RefusedSplit(graph.name, SEARCHED, cluster.num_devices, str(error))
    if found.scheme == NO_SPLIT or len(found.devices) < 2:
        return None
    kind = found.scheme.partition(":")[0]
    label = f"searched {'mixture' if kind == MIXED else kind} over {len(found.devices)}"
    price = priced(found.plan, found.simulation, "split", graph.name, SEARCHED, label, accuracy)
    return PricedSplit(SEARCHED, found.plan, price)


def with_all_cores(cluster: Cluster) -> Cluster:
    """The cluster with each device's speeds on all of its cores, where it has them."""
    return cluster.model_copy(update={"devices": tuple(map(_on_all_cores, cluster.devices))})


def _on_all_cores(device: Device) -> Device:
    return device.model_copy(update={"threads": None}) if device.rates else device
