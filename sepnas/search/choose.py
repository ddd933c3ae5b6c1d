"""Choosing among the candidates of a search: bounds, the front within them, one point of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from sepnas.errors import SearchError
from sepnas.search.candidate import Candidate
from sepnas.search.pareto import knee, pareto_front
from sepnas.separable.space_parts import ACCURACIES


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a candidate may cost at most and has to reach at least; None is no bound."""

    max_latency_s: float | None = None
    max_payload_bytes: float | None = None
    min_accuracy: float | None = None
    max_energy_j: float | None = None
    max_memory_bytes: float | None = None
    min_accuracy_one_lost: float | None = None

    def excess(self, candidate: Candidate) -> float:
        """How far a candidate lies beyond the bounds, each relative to itself; 0 when it keeps them all."""
        return sum(max(0.0, _beyond(candidate, *bound)) for bound in self._given())

    def __bool__(self) -> bool:
        return any(True for _ in self._given())

    def __str__(self) -> str:
        return " and ".join(f"{name} {'<=' if most else '>='} {bound:g}" for name, most, bound in self._given())

    def told(self, candidate: Candidate) -> str:
        """The candidate's values of all that is bounded, and always the three that matter most."""
        names = ["accuracy", "latency_s", "payload_bytes", *(name for name, _, _ in self._given())]
        return ", ".join(f"{name} {_value(candidate, name):g}" for name in dict.fromkeys(names))

    def _given(self) -> Iterator[tuple[str, bool, float]]:
        """The name of each bounded value, whether the bound is from above, and the bound."""
        for field in fields(self):
            bound = getattr(self, field.name)
            if bound is not None:
                direction, _, name = field.name.partition("_")
                yield name, direction == "max", bound


def front_within(candidates: Sequence[Candidate], bounds: Bounds) -> list[Candidate]:
    """The Pareto front of the candidates that keep the bounds, by rising bytes.

    A bound on what is no objective may thus bring up candidates that are not on the front of all. Raises
    :class:`SearchError` that names the nearest candidate when none fits.
    """
    if not candidates:
        raise SearchError("the front is empty: no candidate is judged yet")
    fitting = [candidate for candidate in candidates if bounds.excess(candidate) == 0]
    if not fitting:
        nearest = min(candidates, key=lambda c: (bounds.excess(c), c.index))
        raise SearchError(
            f"no candidate has {bounds}; the nearest is candidate {nearest.index} with {bounds.told(nearest)}"
        )
    return pareto_front(fitting)


def pick(
    candidates: Sequence[Candidate],
    max_latency_s: float | None = None,
    max_payload_bytes: float | None = None,
    min_accuracy: float | None = None,
    max_energy_j: float | None = None,
    max_memory_bytes: float | None = None,
    min_accuracy_one_lost: float | None = None,
) -> Candidate:
    """The most accurate candidate within the bounds (of equals the one with fewer bytes); without bounds the knee.

    Raises :class:`SearchError` that names the nearest candidate when none fits.
    """
    bounds = Bounds(
        max_latency_s, max_payload_bytes, min_accuracy, max_energy_j, max_memory_bytes, min_accuracy_one_lost
    )
    front = front_within(candidates, bounds)
    if not bounds:
        return knee(front)
    return max(front, key=lambda c: (c.objectives["accuracy"], -c.costs["payload_bytes"], -c.costs["latency_s"]))


def _beyond(candidate: Candidate, name: str, most: bool, bound: float) -> float:
    value = _value(candidate, name)
    return (value - bound if most else bound - value) / max(abs(bound), 1e-12)


def _value(candidate: Candidate, name: str) -> float:
    if name not in ACCURACIES:
        return candidate.costs[name]
    if name not in candidate.objectives:
        raise SearchError(
            f"candidates have no {name}, for this search did not judge it; name it in the space's `objectives`"
        )
    return candidate.objectives[name]
