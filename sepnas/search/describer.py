"""The features of a candidate from which its accuracy is predicted."""

from __future__ import annotations

import numpy as np

from sepnas.plan.wire import WIRE_FORMATS
from sepnas.search.problem import Features, Genes
from sepnas.search.screen import Screened
from sepnas.separable.space import SearchSpace

MAX_PAIRS = 512
"""Maximum number of device pairs over all blocks; with more, features are summed over the senders."""


class Describer:
    """The features of a candidate: its genes, its transfers after each block, and their costs."""

    def __init__(self, space: SearchSpace) -> None:
        blocks = space.architecture_of(space.largest()).num_blocks
        self.shape = (blocks, space.num_devices, space.num_devices)

    def __call__(self, candidate: Screened, genes: Genes) -> Features:
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
