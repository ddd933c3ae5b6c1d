"""Linear fits of measured times, without scikit-learn, which devices do not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def fit_costs(columns: npt.ArrayLike, seconds: Sequence[float], weights: npt.ArrayLike | None = None) -> list[float]:
    """Nonnegative coefficients, one for each column, that fit the times by least squares of relative errors.

    A coefficient that would be negative is set to 0 and the others are fitted again. ``weights`` multiply the errors.
    """
    amounts, times = np.array(columns, np.float64), np.array(seconds, np.float64)
    weights_n = np.ones(len(times)) if weights is None else np.asarray(weights, np.float64)
    relative = amounts * (weights_n / times)[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    used = list(range(amounts.shape[1]))
    found = np.zeros(amounts.shape[1])
    while used:
        values = np.linalg.lstsq(relative[:, used] / scale[used], weights_n, rcond=None)[0]
        if (values >= 0).all():
            found[used] = values / scale[used]
            break
        used.pop(int(values.argmin()))
    return [float(value) for value in found]
