"""Choosing one point of a front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sepnas.errors import SearchError
from sepnas.search.candidate import Candidate
from sepnas.search.pareto import knee

Bound = tuple[str, float, Callable[[Candidate], float]]


def pick(
    front: Sequence[Candidate],
    max_latency_s: float | None = None,
    max_payload_bytes: float | None = None,
    min_accuracy: float | None = None,
) -> Candidate:
    """The most accurate candidate within the bounds (of equals the one with fewer bytes); without bounds the knee.

    Raises :class:`SearchError` that names the nearest candidate when none fits.
    """
    if not front:
        raise SearchError("the front is empty: there is nothing to pick from")
    bounds = _bounds(max_latency_s, max_payload_bytes, min_accuracy)
    if not bounds:
        return knee(front)
    fitting = [candidate for candidate in front if all(excess(candidate) <= 0 for _, _, excess in bounds)]
    if not fitting:
        raise SearchError(_nothing_fits(front, bounds))
    return max(fitting, key=lambda c: (c.objectives["accuracy"], -c.costs["payload_bytes"], -c.costs["latency_s"]))


def _bounds(latency_s: float | None, payload_bytes: float | None, accuracy: float | None) -> list[Bound]:
    """Each bound with how far, relative to itself, a candidate lies beyond it."""
    bounds: list[Bound] = []
    for name, bound in (("latency_s", latency_s), ("payload_bytes", payload_bytes)):
        if bound is not None:
            bounds.append((f"{name} <= {bound:g}", bound, _cost_excess(name, bound)))
    if accuracy is not None:
        bounds.append((f"accuracy >= {accuracy:g}", accuracy, lambda c: accuracy - c.objectives["accuracy"]))
    return bounds


def _cost_excess(name: str, bound: float) -> Callable[[Candidate], float]:
    return lambda candidate: (candidate.costs[name] - bound) / max(abs(bound), 1e-12)


def _nothing_fits(front: Sequence[Candidate], bounds: Sequence[Bound]) -> str:
    nearest = min(front, key=lambda c: sum(max(0.0, excess(c)) for _, _, excess in bounds))
    wanted = " and ".join(text for text, _, _ in bounds)
    return (
        f"no candidate of the front has {wanted}; the nearest is candidate {nearest.index} with accuracy "
        f"{nearest.objectives['accuracy']:.4f}, latency_s {nearest.costs['latency_s']:.6f}, payload_bytes "
        f"{nearest.costs['payload_bytes']:.0f}"
    )
