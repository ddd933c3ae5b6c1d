"""Converts imported networks, plans, searches, trainings and deployments into the report's parts about one cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import predicted_timeline
from sepnas.partition.graph import Graph
from sepnas.report.comparison.given import Gathered, Mapped, counts_up_to
from sepnas.report.comparison.splits import Progress
from sepnas.report.comparison.values import Comparison, PricedPlan
from sepnas.report.content import DrawnMap, ShownTimeline
from sepnas.report.from_run import shown_timeline
from sepnas.report.plan_map.make import map_of
from sepnas.spec.cluster import Cluster
from sepnas.units import format_bytes, format_count, format_seconds

MAX_SPANS = 1500
"""A time line with more activities is not drawn."""


class PlanParts(TypedDict):
    """The parts of :class:`ReportContent` about plans on one cluster."""

    comparison: Comparison
    maps: tuple[DrawnMap, ...]
    plan_timeline: ShownTimeline | None


def plan_parts(
    given: Sequence[Path],
    cluster: Cluster,
    accuracies: Mapping[str, float],
    counts: Sequence[int] = (),
    progress: Progress | None = None,
    searching: bool = False,
) -> PlanParts:
    """Price all that is given on the cluster, imported networks in every registered scheme, and map the plans.

    ``accuracies`` are shares by name of a network, file or folder; ``counts`` the numbers of devices to split over, by
    default all; ``searching`` also searches for the best split of each network. Raises :class:`SpecError` for what a
    report does not take, and for an accuracy of nothing given.
    """
    found = Gathered(cluster, counts or tuple(counts_up_to(cluster.num_devices)), accuracies, progress, searching)
    for each in given:
        found.add(each)
    mapped = sorted(found.mapped, key=lambda each: each.folded)
    maps = tuple(_drawn(each, place, found) for place, each in enumerate(mapped))
    timeline = _timeline(mapped[0], cluster) if mapped else None
    return PlanParts(comparison=found.comparison(), maps=maps, plan_timeline=timeline)


def _timeline(each: Mapped, cluster: Cluster) -> ShownTimeline | None:
    """The time line of a plan, if it is not too long to be legible."""
    found = predicted_timeline(each.plan, simulate(each.plan, cluster, timeline=True))
    shown = replace(shown_timeline(found), title=_title(each.price))
    return shown if len(shown.spans) <= MAX_SPANS else None


def _drawn(each: Mapped, place: int, found: Gathered) -> DrawnMap:
    price, names = each.price, [device.name for device in found.cluster.devices]
    graph = each.graph or _graph_of(each, found.graphs)
    lead = (
        f"{format_seconds(price.latency_s)} predicted, {format_bytes(price.payload_bytes)} between "
        f"{format_count(each.plan.num_devices, 'device')}, {format_bytes(price.total_bytes)} in all."
    )
    drawn = map_of(each.plan, names, slug=f"map-{place}", title=_title(price), lead=lead, graph=graph)
    return DrawnMap(drawn, each.folded)


def _title(price: PricedPlan) -> str:
    return price.label if price.network in price.label else f"{price.network}: {price.label}"


def _graph_of(each: Mapped, graphs: Sequence[Graph]) -> Graph | None:
    """The imported network on the page of which this is a plan."""
    layers = {layer for segments in each.plan.segments for segment in segments.values() for layer in segment.layers}
    return next((graph for graph in graphs if layers <= {node.name for node in graph.nodes}), None)
