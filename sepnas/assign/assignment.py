"""The chosen assignment of a network to devices, beside its alternatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sepnas.assign.goal import NO_BOUNDS, Goal, find_plan_objective
from sepnas.assign.priced import Alternative, priced
from sepnas.assign.proposal import NO_SPLIT
from sepnas.assign.refusals import check_bounds, check_memory
from sepnas.assign.search import AssignmentSearch, Show
from sepnas.errors import SpecError
from sepnas.objectives import PLAN_OBJECTIVES, Bounds
from sepnas.partition.graph import Graph
from sepnas.plan.plan import Plan
from sepnas.plan.wire import UNCONVERTED, WIRE_FORMATS, WireFormat
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import short

SHOWN = 12
"""Maximum number of alternatives, besides no split and given plans."""


@dataclass(frozen=True)
class Assignment:
    """The result of a search, the best alternative first.

    ``chosen`` is the best alternative that computes this network; a given plan of another network may stand before it.
    ``alone`` is the best without a split; None if no device has the memory. ``num_estimated`` and ``num_priced`` count
    the candidates that were estimated, and those that were lowered and simulated.
    """

    goal: Goal
    cluster: Cluster
    wire: WireFormat
    alternatives: tuple[Alternative, ...]
    chosen: Alternative
    alone: Alternative | None
    num_estimated: int
    num_priced: int

    @property
    def dimensions(self) -> Mapping[str, str]:
        """The chosen plan in the five dimensions by which surveys compare partitions (arXiv 2304.10020)."""
        names = [self.cluster.devices[rank].name for rank in self.chosen.devices]
        limits = [f"memory of each device, {self.wire} messages", *map(str, self.goal.bounds)]
        return {
            "deployment locations": f"{', '.join(names)} of cluster {self.cluster.name}",
            "partition granularity": _granularity(self.chosen.scheme),
            "constraints": ", ".join(limits),
            "objectives": f"{self.goal.objective.direction} {self.goal.objective.name}",
            "algorithm": "dynamic programming over operators and layouts: "
            f"{self.num_estimated:,} candidates estimated, the best {self.num_priced:,} simulated",
        }

    def to_data(self) -> dict[str, Any]:
        """All of it but the plans, for JSON."""
        return {
            "objective": self.goal.objective.name,
            "bounds": [str(bound) for bound in self.goal.bounds],
            "cluster": self.cluster.name,
            "chosen": self.alternatives.index(self.chosen),
            "dimensions": dict(self.dimensions),
            "alternatives": [
                {
                    "scheme": each.scheme,
                    "devices": list(each.devices),
                    "shares": list(each.shares),
                    "fits": each.fits,
                    "in_flight": each.in_flight,
                    **{name: known.data(each.costs[name]) for name, known in PLAN_OBJECTIVES.items()},
                }
                for each in self.alternatives
            ],
        }


def _granularity(scheme: str) -> str:
    return "the whole network" if scheme == NO_SPLIT else f"operators and regions of their outputs ({scheme})"


def assignment_of(
    graph: Graph,
    cluster: Cluster,
    objective: str = "latency",
    bounds: Bounds = NO_BOUNDS,
    wire: WireFormat = UNCONVERTED,
    plans: Mapping[str, Plan] | None = None,
    show: Show = lambda done, total, what: None,
) -> Assignment:
    """Search for the assignment that is best by ``objective`` within ``bounds``; ``plans`` are compared by name.

    Raises :class:`SpecError` for an unknown objective or format or a cluster without the figures of an objective,
    :class:`SearchError` if no assignment fits the devices' memory or keeps the bounds, and :class:`PlanError` for a
    network that cannot be planned, or a given plan that does not fit the cluster.
    """
    if wire not in WIRE_FORMATS:
        raise SpecError(f"wire format {short(wire)} is none of {', '.join(WIRE_FORMATS)}")
    goal = Goal(find_plan_objective(objective), bounds)
    goal.check(cluster)
    search = AssignmentSearch(graph, cluster, goal, wire, show)
    found = search.run()
    check_memory(search, found)
    given = [priced(plan, cluster, name, {}).streamed(cluster) for name, plan in (plans or {}).items()]
    own = [each for each in given if is_of(each.plan, graph)]
    chosen = min([*found, *own], key=goal.of)
    check_bounds(goal, chosen)
    return _result(search, goal, found, given, chosen)


def _result(
    search: AssignmentSearch,
    goal: Goal,
    found: Sequence[Alternative],
    given: Sequence[Alternative],
    chosen: Alternative,
) -> Assignment:
    """The rows of the table: the best, the best of each scheme, no split, and given plans."""
    alone = next((each for each in found if each.scheme == NO_SPLIT and each.fits), None)
    first = dict[object, Alternative]()
    for each in found:
        first.setdefault((each.scheme, len(each.devices)), each)
    kept = [*first.values()][:SHOWN]
    rows = {id(each): each for each in (chosen, *([alone] if alone else []), *kept, *given)}
    streamed = {key: each.streamed(search.cluster) for key, each in rows.items()}
    return Assignment(
        goal=goal,
        cluster=search.cluster,
        wire=search.wire,
        alternatives=tuple(sorted(streamed.values(), key=goal.of)),
        chosen=streamed[id(chosen)],
        alone=streamed[id(alone)] if alone else None,
        num_estimated=search.num_estimated,
        num_priced=search.num_priced,
    )


def is_of(plan: Plan, graph: Graph) -> bool:
    """Whether a plan computes operators of this graph with its weights, and nothing else."""
    nodes, weights = {node.name for node in graph.nodes}, set(graph.weights)
    segments = [segment for each in plan.segments for segment in each.values()]
    return all(nodes.issuperset(each.layers) for each in segments) and all(
        weight.name in weights for each in segments for weight in each.weights
    )
