"""The cheap half of evaluating a candidate: lower it, price it, and check it against the bounds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SearchError
from sepnas.objectives import costs_of
from sepnas.plan.liveness import devices_used
from sepnas.plan.plan import Plan
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import plan_key
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.space import Choice, Genotype, SearchSpace
from sepnas.spec.cluster import Cluster, format_pairs

FEASIBILITY_SAMPLES = 500
NO_LINK, NO_MEMORY = "links of the cluster", "memory of the cluster's devices"


@dataclass(frozen=True, slots=True)
class Screened:
    """A priced genotype. ``excess`` holds the relative violation of each broken bound."""

    genotype: dict[str, Choice]
    key: str
    architecture: Architecture
    costs: dict[str, float]
    excess: dict[str, float]

    @property
    def feasible(self) -> bool:
        return not self.excess

    def candidate(self, index: int, objectives: Mapping[str, float], seconds: float, excess: float) -> Candidate:
        return Candidate(
            index=index, key=self.key, genotype=self.genotype, objectives=dict(objectives), costs=self.costs,
            seconds=seconds, architecture=self.architecture, excess=excess,
        )  # fmt: skip


def priced(plan: Plan, cluster: Cluster) -> tuple[dict[str, float], dict[str, float]]:
    """The simulated costs of a plan, and the relative violation of what the cluster has: links, and memory.

    Without a link for one of its messages a plan has no costs.
    """
    try:
        simulation = simulate(plan, cluster)
    except PlanError:
        return {}, {NO_LINK: 1.0}
    devices = zip(simulation.peak_memory_bytes, cluster.devices, strict=False)
    over = max(used / device.memory_bytes for used, device in devices) - 1
    return costs_of(simulation), {NO_MEMORY: over} if over > 0 else {}


class Screen:
    """Prices genotypes of a space on a cluster, and counts the exclusions by each bound."""

    def __init__(self, space: SearchSpace, cluster: Cluster) -> None:
        if cluster.num_devices < space.num_devices:
            raise SearchError(
                f"space '{space.name}' needs {space.num_devices} devices, but cluster '{cluster.name}' has "
                f"{cluster.num_devices}"
            )
        self.space, self.cluster = space, cluster
        bounds = space.constraints.bounds(evaluated=False)
        self._bounds = [(bound.objective.bound_name, bound.objective.name, bound) for bound in bounds]
        self.sampled = 0
        self.excluded: Counter[str] = Counter()

    def __call__(self, genotype: Genotype) -> Screened:
        architecture = self.space.architecture_of(genotype)
        plan = build_plan(architecture)
        costs, excess = priced(plan, self.cluster)
        if costs:
            excess = self._excess(costs) | excess | self._idleness(plan)
        self.sampled += 1
        self.excluded.update(excess.keys())
        return Screened(dict(genotype), plan_key(plan), architecture, costs, excess)

    def _excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        found = {bound_name: bound.excess(costs[name]) for bound_name, name, bound in self._bounds}
        return {name: excess for name, excess in found.items() if excess > 0}

    def _idleness(self, plan: Plan) -> dict[str, float]:
        """The excess of a plan that leaves more devices idle than the space allows."""
        wanted = self.space.constraints.devices_used
        used = len(devices_used(plan)) if wanted else 0
        return {"devices_used": wanted / used - 1} if wanted and used < wanted else {}

    def explain(self) -> str:
        """The number of samples that each bound excludes, as text."""
        counts = ", ".join(f"{self._named(name)} excludes {count}" for name, count in self.excluded.most_common())
        return f"of {self.sampled} sampled {counts or 'none is excluded'}"

    def missing_links(self) -> str:
        """The device pairs of the space that the cluster does not link, as text; empty if it links all."""
        return format_pairs(self.cluster.missing_links(self.space.num_devices))

    def _named(self, bound: str) -> str:
        if bound == NO_LINK:
            return f"the lack of links in the cluster ({self.missing_links()})"
        value = getattr(self.space.constraints, bound, None)
        return bound if value is None else f"`constraints.{bound}` (={value})"


def first_genotypes(space: SearchSpace) -> list[dict[str, Choice]]:
    """The first genotypes of a search: the extremes of the space, and those named policies that it can express."""
    expressed = (
        space.genotype_of(named_policy(name, space.num_devices, depth, space.network.backbone), depth)
        for depth in sorted(space.network.depths, reverse=True)
        for name in NAMED_POLICIES
    )
    return [space.largest(), space.smallest(), *(genotype for genotype in expressed if genotype is not None)]


def reference_costs(space: SearchSpace, cluster: Cluster, seed: int) -> dict[str, float]:
    """The costs at the reference point of the hypervolume: those of the largest policy.

    If the cluster lacks a link for that policy, the highest costs of random candidates.
    """
    screen, draw = Screen(space, cluster), random.Random(seed).randrange
    largest = screen(space.largest()).costs
    if largest:
        return largest
    tried = [*first_genotypes(space), *(space.sample(draw) for _ in range(FEASIBILITY_SAMPLES))]
    priced = [costs for genotype in tried if (costs := screen(genotype).costs)]
    return {name: max(costs[name] for costs in priced) for name in priced[0]}


def check_feasible(space: SearchSpace, cluster: Cluster, seed: int) -> None:
    """Raise :class:`SearchError` with the reason if no feasible candidate is found; runs before any training."""
    screen, draw = Screen(space, cluster), random.Random(seed).randrange
    samples = (space.sample(draw) for _ in range(FEASIBILITY_SAMPLES))
    if not _any_feasible(screen, first_genotypes(space)) and not _any_feasible(screen, samples):
        raise SearchError(
            f"space '{space.name}' has no feasible candidate on cluster '{cluster.name}': {screen.explain()}; "
            f"{_remedy(screen)}"
        )


def _remedy(screen: Screen) -> str:
    if set(screen.excluded) == {NO_LINK}:
        return "add the links to the cluster (`between: all` for every pair), or offer the pattern none"
    if set(screen.excluded) == {"devices_used"}:
        return "require fewer devices, or offer the read-out mean, or patterns in which all devices reach the answer"
    return "loosen a bound, or offer cheaper patterns, fractions or wires"


def _any_feasible(screen: Screen, genotypes: Iterable[Genotype]) -> bool:
    return any(screen(genotype).feasible for genotype in genotypes)
