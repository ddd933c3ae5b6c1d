"""Multi-objective tools: the Pareto front, its hypervolume, its knee.

moocore is imported on use: a machine that only trains the supernet does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sepnas.objectives import OBJECTIVES
from sepnas.search.candidate import Evaluated, EvaluatedT

Points = NDArray[np.float64]
LOG_DETAIL = 100.0
"""Log shares are about linear below the worst cost divided by this; smaller differences are not worth resolving."""


def minimised(candidates: Sequence[Evaluated]) -> Points:
    """One row of objectives per candidate, all to be minimised."""
    rows = [[OBJECTIVES[name].sort_key(value) for name, value in c.objectives.items()] for c in candidates]
    return np.asarray(rows, dtype=np.float64)


def pareto_front(candidates: Sequence[EvaluatedT]) -> list[EvaluatedT]:
    """The non-dominated candidates, by rising bytes; the first among equals.

    Candidates beyond a bound of their space are excluded, so the front may be empty.
    """
    feasible = [candidate for candidate in candidates if not candidate.excess]
    if not feasible:
        return []
    import moocore

    best = moocore.is_nondominated(minimised(feasible))
    front = [candidate for candidate, kept in zip(feasible, best, strict=True) if kept]
    return sorted(front, key=lambda c: (c.costs["payload_bytes"], c.costs["latency_s"], c.index))


def hypervolume(front: Sequence[Evaluated], worst: Mapping[str, float], log: bool = False) -> float:
    """The fraction of the box between ideal (accuracies 1, costs 0) and ``worst`` that the front dominates, 0 to 1.

    ``worst`` holds the costs that count as 1, those of the largest policy; the worst accuracy is 0. ``log`` scales
    costs as :func:`log_shares` does.
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
    """Like :func:`shares`, with costs on a logarithmic scale because they span decades."""
    linear = shares(objectives, worst)
    scaled = np.log1p(LOG_DETAIL * linear) / np.log1p(LOG_DETAIL)
    return np.where([OBJECTIVES[name].maximised for name in objectives], linear, scaled)


def improvement(front: Points, point: Points) -> float:
    """The hypervolume that a point adds to ``front``; both are shares from 0 to 1, one row per point of the front."""
    if (point >= 1).any():
        return 0.0
    import moocore

    covered = moocore.hypervolume(np.maximum(front, point), ref=[1.0] * len(point))
    return float(np.prod(1 - point) - covered)


def knee(front: Sequence[EvaluatedT]) -> EvaluatedT:
    """The point nearest to the ideal point, with each objective scaled to the front's range."""
    points = minimised(front)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    return front[int(np.linalg.norm(scaled, axis=1).argmin())]
