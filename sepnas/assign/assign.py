"""The public function of the assignment search: files and texts in, a typed result out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from sepnas.assign.assignment import Assignment, assignment_of
from sepnas.console import step_bar
from sepnas.objectives import PLAN_OBJECTIVES, Bound, Bounds
from sepnas.partition.graph import Graph, load_graph
from sepnas.separable.read import read_plan
from sepnas.spec.cluster import Cluster

PathLike: TypeAlias = str | os.PathLike[str]


def assign(
    network: Graph | PathLike,
    cluster: Cluster | PathLike,
    *,
    objective: str = "latency",
    bounds: Bounds | Sequence[str] = (),
    wire: str = "fp32",
    plans: Sequence[PathLike] = (),
) -> Assignment:
    """Search for the best way to run an imported network on a cluster: schemes, devices, shares and mixtures of them.

    No split at all is always among the alternatives. All have predicted costs, as :func:`simulate` gives them; the
    same arguments give the same result. Torch is not needed.

    >>> found = assign("squeezenet", uniform_cluster(2), bounds=["memory_bytes<=64MB"])
    >>> found.chosen.costs["latency_s"] <= found.alone.costs["latency_s"]
    True

    Args:
        network: a graph, its file, or the folder of an imported network.
        cluster: a cluster or its file.
        objective: ``latency``, ``throughput``, ``energy``, ``total_bytes``, ``peak_memory``, or another one of
            :data:`sepnas.objectives.PLAN_OBJECTIVES`.
        bounds: limits on any of these, such as ``latency_s<=20ms``.
        wire: the format of the messages between devices; ``fp32`` is exact.
        plans: plan files to compare with; one of this network may be chosen.

    Raises:
        SpecError: an unknown objective, bound or format, a damaged file, or a cluster that lacks power figures.
        SearchError: no assignment fits the devices' memory or keeps the bounds; by how much the nearest one misses.
        PlanError: a network that cannot be planned, or a plan file that does not fit the cluster.
    """
    graph = network if isinstance(network, Graph) else load_graph(Path(network))
    where = cluster if isinstance(cluster, Cluster) else Cluster.load(cluster)
    given = {os.fspath(path): read_plan(path) for path in plans}
    if not isinstance(bounds, Bounds):
        bounds = Bounds(tuple(Bound.parse(each, PLAN_OBJECTIVES) for each in bounds))
    with step_bar("partition") as show:
        return assignment_of(graph, where, objective, bounds, wire, given, show)
