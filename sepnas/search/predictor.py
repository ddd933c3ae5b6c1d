"""A cheap guess of a candidate's accuracy, learned from the candidates that were judged."""

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
MOST_PAIRS = 512
"""Beyond so many pairs of devices, over all blocks, features are summed over the senders."""


class Describer:
    """What the predictor sees of a candidate: its genes, what crosses after each block, and what that costs."""

    def __init__(self, space: SearchSpace) -> None:
        blocks = space.architecture_of(space.largest()).num_blocks
        self.shape = (blocks, space.num_devices, space.num_devices)

    def __call__(self, candidate: Screened, genes: NDArray[np.int64]) -> Floats:
        """For each block and pair the fraction that crosses, at once or late, and for each receiver how coarsely."""
        sent, late, coarse = np.zeros((3, *self.shape), dtype=np.float32)
        for point in candidate.architecture.policy.points:
            for transfer in point.transfers:
                place = (point.after, transfer.source, transfer.destination)
                sent[place] = transfer.fraction
                late[place] = transfer.fraction * transfer.lag
                coarse[place] = transfer.fraction * WIRE_FORMATS.index(transfer.wire)
        if sent.size > MOST_PAIRS:
            sent, late = sent.sum(axis=1), late.sum(axis=1)
        costs = [np.log1p(candidate.costs["payload_bytes"]), candidate.costs["latency_s"]]
        parts = (sent.ravel(), late.ravel(), coarse.sum(axis=1).ravel(), genes, costs)
        return np.concatenate(parts, dtype=np.float32)


class AccuracyPredictor:
    """Extremely randomised trees (Geurts et al. 2006, scikit-learn's); their disagreement is the uncertainty."""

    def __init__(self, rows: Sequence[Floats], accuracies: Sequence[float], seed: int) -> None:
        forest = ExtraTreesRegressor(TREES, max_features=FEATURES_PER_SPLIT, random_state=seed)
        self.trees = forest.fit(np.stack(rows), accuracies).estimators_

    def guess(self, rows: Sequence[Floats]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation for each row."""
        table = np.stack(rows)
        # A tree's own `predict` checks its input for longer than it looks at it.
        found = np.stack([tree.tree_.predict(table)[:, 0] for tree in self.trees])
        return found.mean(axis=0), found.std(axis=0)
