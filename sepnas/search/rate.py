"""The rate at which candidates of a space are lowered and simulated."""

from __future__ import annotations

import random
import time

from sepnas.cost.simulator import simulate
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster

RATE_SAMPLE_S = 2.0


def simulation_rate(space: SearchSpace, cluster: Cluster, seed: int, sample_s: float = RATE_SAMPLE_S) -> float:
    """Random candidates of a space lowered and simulated per second, on one core."""
    draw = random.Random(seed).randrange
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < sample_s:
        simulate(build_plan(space.architecture_of(space.sample(draw))), cluster)
        count += 1
    return count / (time.perf_counter() - start)
