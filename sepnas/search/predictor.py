"""A cheap prediction of a candidate's accuracy, fitted to the evaluated candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from sepnas.plan.wire import WIRE_FORMATS
from sepnas.search.screen import Screened
from sepnas.separable.space import SearchSpace

Floats = NDArray[np.float32]
TREES = 60
FEATURES_PER_SPLIT = 0.4
MAX_PAIRS = 512
"""Maximum number of device pairs over all blocks; with more, features are summed over the senders."""


class Describer:
    """The features of a candidate: its genes, its transfers after each block, and their costs."""

    def __init__(self, space: SearchSpace) -> None:
        blocks = space.architecture_of(space.largest()).num_blocks
        self.shape = (blocks, space.num_devices, space.num_devices)

    def __call__(self, candidate: Screened, genes: NDArray[np.int64]) -> Floats:
        """Fractions sent, and sent with lag, per block and pair; coarseness per receiver; genes; costs."""
        sent, late, coarse = np.zeros((3, *self.shape), dtype=np.float32)
        for point in candidate.architecture.policy.points:
            for transfer in point.transfers:
                place = (point.after, transfer.source, transfer.destination)
                sent[place] = transfer.fraction
                late[place] = transfer.fraction * transfer.lag
                coarse[place] = transfer.fraction * WIRE_FORMATS.index(transfer.wire)
        if sent.size > MAX_PAIRS:
            sent, late = sent.sum(axis=1), late.sum(axis=1)
        costs = [np.log1p(candidate.costs["payload_bytes"]), candidate.costs["latency_s"]]
        parts = (sent.ravel(), late.ravel(), coarse.sum(axis=1).ravel(), genes, costs)
        return np.concatenate(parts, dtype=np.float32)


class AccuracyPredictor:
    """Extremely randomised trees (Geurts et al. 2006) from scikit-learn; their spread is the uncertainty."""

    def __init__(self, rows: Sequence[Floats], accuracies: Sequence[float], seed: int) -> None:
        forest = ExtraTreesRegressor(TREES, max_features=FEATURES_PER_SPLIT, random_state=seed)
        self.trees = forest.fit(np.stack(rows), accuracies).estimators_

    def guess(self, rows: Sequence[Floats]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean and standard deviation for each row."""
        table = np.stack(rows)
        # A tree's own `predict` spends more time on checking its input than on predicting.
        found = np.stack([tree.tree_.predict(table)[:, 0] for tree in self.trees])
        return found.mean(axis=0), found.std(axis=0)
