"""A cheap prediction of a candidate's accuracy, fitted to the evaluated candidates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sepnas.search.problem import Features

Values: TypeAlias = NDArray[np.float64]
TREES = 60
FEATURES_PER_SPLIT = 0.4
TAIL = 3.0
"""Accuracies further below the median than this many times the distance of the best above it are raised to that."""
PROCESS_ROWS = 400
"""Maximum number of candidates of a Gaussian process, the latest ones: its cost grows with their cube."""
_TINY = 1e-9


class AccuracyPredictor:
    """The mean of extremely randomised trees (Geurts et al. 2006) and a Gaussian process, both from scikit-learn.

    Trees learn sharp effects of single features, the process smooth ones of all. The uncertainty is the spread of the
    trees, the deviation of the process, and how far both are apart. ``kernel`` is that of an earlier predictor of the
    same search: it is kept, because fitting it anew takes far longer than anything else.
    """

    def __init__(self, rows: Sequence[Features], accuracies: Sequence[float], seed: int, kernel: Any = None) -> None:
        table, known = np.stack(rows), without_tail(np.asarray(accuracies, dtype=np.float64))
        forest = ExtraTreesRegressor(TREES, max_features=FEATURES_PER_SPLIT, random_state=seed)
        self.trees = forest.fit(table, known).estimators_
        self._process = _Process(table[-PROCESS_ROWS:], known[-PROCESS_ROWS:], kernel)

    @property
    def kernel(self) -> Any:
        """The fitted kernel of the Gaussian process."""
        return self._process.kernel

    def guess(self, rows: Sequence[Features]) -> tuple[Values, Values]:
        """The mean and standard deviation for each row."""
        table = np.stack(rows)
        # A tree's own `predict` spends more time on checking its input than on predicting.
        found = np.stack([tree.tree_.predict(table)[:, 0] for tree in self.trees])
        means, deviations = self._process.guess(table)
        apart = (found.mean(axis=0) - means) / 2
        spread = np.sqrt((found.var(axis=0) + deviations**2) / 2 + apart**2)
        return means + apart, spread


class _Process:
    """A Gaussian process of standardised features and accuracies, with a Matern kernel and noise."""

    def __init__(self, table: NDArray[Any], known: Values, kernel: Any) -> None:
        self._centre, self._scale = table.mean(axis=0), table.std(axis=0) + _TINY
        self._mean, self._deviation = float(known.mean()), float(known.std()) + _TINY
        fitted = GaussianProcessRegressor(
            kernel=kernel or _first_kernel(table.shape[1]), optimizer=None if kernel else "fmin_l_bfgs_b"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer
            self._fitted = fitted.fit(self._standard(table), (known - self._mean) / self._deviation)

    @property
    def kernel(self) -> Any:
        return self._fitted.kernel_

    def guess(self, table: NDArray[Any]) -> tuple[Values, Values]:
        means, deviations = self._fitted.predict(self._standard(table), return_std=True)
        return means * self._deviation + self._mean, deviations * self._deviation

    def _standard(self, table: NDArray[Any]) -> Values:
        found: Values = (table.astype(np.float64) - self._centre) / self._scale
        return found


def _first_kernel(features: int) -> Any:
    lengths = Matern(features**0.5, (0.1, 1e3), nu=1.5)
    return ConstantKernel(1.0, (1e-2, 1e2)) * lengths + WhiteKernel(1e-2, (1e-5, 1.0))


def without_tail(accuracies: Values) -> Values:
    """Accuracies with those far below the median raised: failures teach little about the best."""
    middle = float(np.median(accuracies))
    lowest = middle - TAIL * (float(accuracies.max()) - middle)
    return np.maximum(accuracies, lowest)
