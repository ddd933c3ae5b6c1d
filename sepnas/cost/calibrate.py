"""From measured times to the numbers of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sepnas.errors import SpecError
from sepnas.spec.timing import SegmentTime


def fit_rate(times: Sequence[SegmentTime]) -> tuple[float, float]:
    """``(flops_per_s, layer_overhead_s)`` that explain the times best, by least squares of relative errors.

    Both come out positive: where the best fit would make one negative, the other alone is fitted.
    """
    if len(times) < 2 or any(t.seconds <= 0 for t in times):
        raise SpecError(f"a rate needs at least two measured times above 0 s, got {len(times)}")
    columns = np.array([[t.flops / t.seconds, t.num_kernels / t.seconds] for t in times])
    ones = np.ones(len(times))
    per_flop, per_kernel = np.linalg.lstsq(columns, ones, rcond=None)[0]
    if per_flop <= 0:
        per_flop, per_kernel = 1e-15, _alone(columns[:, 1])
    elif per_kernel <= 0:
        per_flop, per_kernel = _alone(columns[:, 0]), 0.0
    return float(1 / per_flop), float(per_kernel)


def _alone(column: np.ndarray) -> float:
    return float(column.sum() / (column**2).sum())
