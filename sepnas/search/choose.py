"""Selection among the candidates of a search: bounds, the front within bounds, and one point of the front."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.errors import SearchError
from sepnas.objectives import Bounds
from sepnas.search.candidate import EvaluatedT
from sepnas.search.pareto import knee, pareto_front


def front_within(candidates: Sequence[EvaluatedT], bounds: Bounds) -> list[EvaluatedT]:
    """The Pareto front of the candidates within the bounds, by rising bytes.

    With a bound on a cost that is not an objective, the result may include candidates outside the overall front.
    Raises :class:`SearchError` that names the nearest candidate if none fits.
    """
    if not candidates:
        raise SearchError("the front is empty: no candidate is evaluated yet")
    feasible = [candidate for candidate in candidates if not candidate.excess]
    if not feasible:
        nearest = min(candidates, key=lambda c: (c.excess, c.index))
        raise SearchError(
            f"none of {len(candidates)} candidates keeps the space's bounds on evaluated objectives; the nearest is "
            f"candidate {nearest.index} with {Bounds().describe(nearest.measured)}; evaluate more "
            "candidates, or loosen a bound"
        )
    fitting = [candidate for candidate in feasible if not bounds.excess(candidate.measured)]
    if not fitting:
        nearest = min(feasible, key=lambda c: (bounds.excess(c.measured), c.index))
        raise SearchError(
            f"no candidate has {bounds}; the nearest is candidate {nearest.index} with "
            f"{bounds.describe(nearest.measured)}"
        )
    return pareto_front(fitting)


def pick(candidates: Sequence[EvaluatedT], bounds: Bounds | None = None, **limits: float | None) -> EvaluatedT:
    """The most accurate candidate within the bounds (fewest bytes among equals); without bounds, the knee.

    ``limits`` are further bounds in base units, named ``max_`` or ``min_`` plus an objective, such as
    ``max_latency_s=0.02`` or ``min_accuracy=0.9``. Raises :class:`SearchError` that names the nearest candidate if none
    fits, and :class:`SpecError` for an unknown name.
    """
    wanted = Bounds((*(bounds or ()), *Bounds.of(**limits)))
    front = front_within(candidates, wanted)
    if not wanted:
        return knee(front)
    return max(front, key=lambda c: (c.objectives["accuracy"], -c.costs["payload_bytes"], -c.costs["latency_s"]))
