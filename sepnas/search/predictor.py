"""A cheap prediction of a candidate's accuracy, fitted to the evaluated candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from sepnas.search.problem import Features

TREES = 60
FEATURES_PER_SPLIT = 0.4


class AccuracyPredictor:
    """Extremely randomised trees (Geurts et al. 2006) from scikit-learn; their spread is the uncertainty."""

    def __init__(self, rows: Sequence[Features], accuracies: Sequence[float], seed: int) -> None:
        forest = ExtraTreesRegressor(TREES, max_features=FEATURES_PER_SPLIT, random_state=seed)
        self.trees = forest.fit(np.stack(rows), accuracies).estimators_

    def guess(self, rows: Sequence[Features]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean and standard deviation for each row."""
        table = np.stack(rows)
        # A tree's own `predict` spends more time on checking its input than on predicting.
        found = np.stack([tree.tree_.predict(table)[:, 0] for tree in self.trees])
        return found.mean(axis=0), found.std(axis=0)
