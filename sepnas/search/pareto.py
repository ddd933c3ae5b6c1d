"""Many objectives at once: the Pareto front, its hypervolume, its knee.

moocore is imported where it is called: a machine that only trains the supernet need not have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sepnas.objectives import OBJECTIVES
from sepnas.search.candidate import Candidate

Points = NDArray[np.float64]
LOG_DETAIL = 100.0
"""Below one part in so many of the worst, a log share is about linear: less is not worth telling apart."""


def minimised(candidates: Sequence[Candidate]) -> Points:
    """The objectives of each candidate as a row in which less is better."""
    rows = [[OBJECTIVES[name].sort_key(value) for name, value in c.objectives.items()] for c in candidates]
    return np.asarray(rows, dtype=np.float64)


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other one dominates, by rising bytes; of equals the first.

    Those beyond a bound of their space are left out, so it may be empty.
    """
    feasible = [candidate for candidate in candidates if not candidate.excess]
    if not feasible:
        return []
    import moocore

    best = moocore.is_nondominated(minimised(feasible))
    front = [candidate for candidate, kept in zip(feasible, best, strict=True) if kept]
    return sorted(front, key=lambda c: (c.costs["payload_bytes"], c.costs["latency_s"], c.index))


def hypervolume(front: Sequence[Candidate], worst: Mapping[str, float], log: bool = False) -> float:
    """The part of the box between ideal (accuracies 1, costs 0) and ``worst`` (accuracies 0) that the front dominates.

    ``worst`` gives the costs that count as 1, those of the largest policy; 0 is nothing, 1 is everything. ``log``
    takes the costs on the scale of :func:`log_shares`.
    """
    if not front:
        return 0.0
    import moocore

    scale = log_shares if log else shares
    rows = np.stack([scale(c.objectives, worst) for c in front])
    return float(moocore.hypervolume(rows, ref=[1.0] * rows.shape[1]))


def shares(objectives: Mapping[str, float], worst: Mapping[str, float]) -> Points:
    """Each objective, in order, from 0 (ideal) to 1 (an accuracy of 0, or a cost of ``worst``)."""
    return np.asarray([OBJECTIVES[name].share(value, worst.get(name, 0.0)) for name, value in objectives.items()])


def log_shares(objectives: Mapping[str, float], worst: Mapping[str, float]) -> Points:
    """As :func:`shares`, costs on a logarithmic scale, for they span decades."""
    linear = shares(objectives, worst)
    scaled = np.log1p(LOG_DETAIL * linear) / np.log1p(LOG_DETAIL)
    return np.where([OBJECTIVES[name].maximised for name in objectives], linear, scaled)


def improvement(front: Points, point: Points) -> float:
    """What a point adds to the hypervolume of ``front``, rows of shares from 0 to 1."""
    if (point >= 1).any():
        return 0.0
    import moocore

    covered = moocore.hypervolume(np.maximum(front, point), ref=[1.0] * len(point))
    return float(np.prod(1 - point) - covered)


def knee(front: Sequence[Candidate]) -> Candidate:
    """The point nearest to the ideal one, each objective scaled to the front's own range."""
    points = minimised(front)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    return front[int(np.linalg.norm(scaled, axis=1).argmin())]
