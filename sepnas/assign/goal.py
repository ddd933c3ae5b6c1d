"""The goal of an assignment: an objective to optimise within bounds, for estimates and for exact prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sepnas.assign.label import Label
from sepnas.assign.priced import Alternative
from sepnas.errors import SpecError
from sepnas.objectives import (
    ENERGY_J,
    LATENCY_S,
    MEMORY_BYTES,
    PLAN_OBJECTIVES,
    THROUGHPUT_PER_S,
    TOTAL_BYTES,
    Bounds,
    Objective,
    costs_of,
)
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import short

NO_BOUNDS = Bounds()
SortKey: TypeAlias = tuple[float, ...]
SHORT_NAMES: Mapping[str, Objective] = {
    "latency": LATENCY_S,
    "throughput": THROUGHPUT_PER_S,
    "energy": ENERGY_J,
    "total_bytes": TOTAL_BYTES,
    "peak_memory": MEMORY_BYTES,
}
"""The objectives that people ask for; any other of a plan may be named as well."""


def find_plan_objective(name: str) -> Objective:
    """The objective of a plan with this name or short name; :class:`SpecError` lists all."""
    known = {**PLAN_OBJECTIVES, **SHORT_NAMES}
    if name not in known:
        raise SpecError(f"unknown objective {short(name)}; allowed: {', '.join(dict.fromkeys((*SHORT_NAMES, *known)))}")
    return known[name]


@dataclass(frozen=True)
class Goal:
    """The best value of ``objective`` within ``bounds``; ties go to the shorter latency, then to fewer devices."""

    objective: Objective
    bounds: Bounds = NO_BOUNDS

    @property
    def streamed(self) -> bool:
        """Whether a throughput is needed to compare two plans."""
        return any(each.streamed for each in (self.objective, *(bound.objective for bound in self.bounds)))

    @property
    def needs(self) -> tuple[Objective, ...]:
        """All objectives that matter, each once."""
        return tuple(dict.fromkeys((self.objective, *(bound.objective for bound in self.bounds))))

    def check(self, cluster: Cluster) -> None:
        """:class:`SpecError` if an objective is not known for the cluster's devices, such as energy without power."""
        for objective in self.needs:
            field = objective.needs_of_devices
            lacking = [device.name for device in cluster.devices if field and not device.has_figures(field)]
            if lacking:
                raise SpecError(
                    f"cluster '{cluster.name}': {objective.name} is not known, because device '{lacking[0]}' has no "
                    f"`{field}`; `sepnas cluster --device PRESET` writes such figures"
                )

    def of_estimate(self, label: Label) -> SortKey:
        """A key that rises from the best label to the worst."""
        objective = self.objective
        if objective.simulated is not None:
            value = objective.simulated(label)
        else:
            assert objective.streamed is not None
            value = objective.streamed(label)
        excess = 0.0
        if self.bounds:
            excess = self.bounds.excess(costs_of(label) | {THROUGHPUT_PER_S.name: label.throughput_per_s})
        return excess, objective.sort_key(value), label.latency_s, float(label.payload_bytes)

    def of(self, alternative: Alternative) -> SortKey:
        """The same for a plan with exact prices."""
        value = self.objective.sort_key(alternative.costs[self.objective.name])
        excess = self.bounds.excess(alternative.costs) if self.bounds else 0.0
        return (
            float(alternative.missing_bytes),
            excess,
            value,
            alternative.costs[LATENCY_S.name],
            len(alternative.devices),
        )
