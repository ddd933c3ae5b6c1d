"""Converts a search's folder into its parts of the report."""

from __future__ import annotations

import shlex
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypedDict

from sepnas.report.content import CandidatePoint, FrontGrowth
from sepnas.separable.architecture import Architecture
from sepnas.separable.live_policy import sent_policy
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.policy import TransmissionPolicy

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.traits import PolicyTraits

EARLY_PART = 4
"""The early front, shown beside the final one, is the front of the first 1/``EARLY_PART`` of the candidates."""


class SearchParts(TypedDict):
    """The parts of :class:`ReportContent` about a search."""

    candidates: tuple[CandidatePoint, ...]
    growth: tuple[FrontGrowth, ...]
    early: int
    objectives: tuple[str, ...]
    search_cluster: str
    pick: str


def search_parts(search_run: Path, chosen_key: str | None = None) -> SearchParts:
    """All evaluated candidates of a search, finished or not, with the front, the knee and named policies marked."""
    from sepnas.search.found import Found
    from sepnas.search.pareto import pareto_front
    from sepnas.search.traits import policy_traits, used_devices

    found = Found.load(search_run)
    early = max(1, len(found.candidates) // EARLY_PART)
    front, early_front = ({c.key for c in part} for part in (found.front, pareto_front(found.candidates[:early])))
    points = tuple(
        CandidatePoint(
            index=c.index,
            objectives=c.objectives | c.costs,
            on_front=c.key in front,
            label=_label(c),
            chosen=c.key == chosen_key,
            knee=c.key == found.knee.key,
            on_early_front=c.key in early_front,
            traits=_numbers(c.architecture, traits),
            phrase=traits.phrase,
            architecture=_as_sent(c.architecture) if c.key in front else None,
            devices_used=len(used_devices(c)),
        )
        for c, traits in ((c, policy_traits(c)) for c in found.candidates)
    )
    growth = (FrontGrowth(s.evaluated, s.front_size, s.hypervolume, s.best_accuracy) for s in found.history())
    return SearchParts(
        candidates=points,
        growth=tuple(growth),
        early=early,
        objectives=found.run.space.objectives,
        search_cluster=found.run.cluster.name,
        pick=shlex.join(["sepnas", "pick", str(search_run), "--out", "architecture.json", "--candidate"]),
    )


def _numbers(architecture: Architecture, traits: PolicyTraits) -> dict[str, float]:
    """The policy's numbers on the axes of the parallel coordinates, without the costs."""
    return {
        "depth": architecture.depth,
        "cardinality": sum(part.cardinality for part in architecture.parts),
        "width": fmean(part.bottleneck_width for part in architecture.parts),
        "points_share": traits.points_used / traits.num_points,
        "num_transfers": traits.num_transfers,
        "mean_fraction": traits.mean_fraction,
        "mean_wire_bits": traits.mean_wire_bits,
        "lag_share": traits.lag_share,
    }


def _as_sent(architecture: Architecture) -> Architecture:
    """The architecture with only the transfers that are sent."""
    return architecture.model_copy(update={"policy": sent_policy(architecture)})


def _label(candidate: Candidate) -> str | None:
    """The named policy that gives the candidate's plan on the candidate's network, if any."""
    network = candidate.architecture.model_copy(update={"name": "any", "policy": TransmissionPolicy()})
    return _named_keys(network).get(candidate.key)


@lru_cache(maxsize=256)
def _named_keys(network: Architecture) -> dict[str, str]:
    """The plan keys of the named policies on a network."""
    from sepnas.search.canonical import named_plan_key

    return {named_plan_key(network, name): name for name in NAMED_POLICIES}
