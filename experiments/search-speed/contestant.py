"""Candidates per second with the package of one tree, this one's or an earlier commit's.

It reads names of search spaces line by line, lowers and simulates random candidates of each for a moment, and writes
their number per CPU second.
"""

from __future__ import annotations

import random
import sys
import time

from sepnas.cost.simulator import simulate
from sepnas.spec.cluster import uniform_cluster

try:
    from sepnas.separable.build import build_plan
    from sepnas.separable.space import SearchSpace
except ModuleNotFoundError:  # commits before `separable` was a room of its own
    from sepnas.plan.build import build_plan  # type: ignore[no-redef]
    from sepnas.spec.space import SearchSpace  # type: ignore[no-redef]

CANDIDATES = 1000


def candidates_per_cpu_s(space: SearchSpace) -> float:
    """The rate for the same random candidates each time."""
    draw, cluster = random.Random(0).randrange, uniform_cluster(space.num_devices)
    started = time.process_time()
    for _ in range(CANDIDATES):
        simulate(build_plan(space.architecture_of(space.sample(draw))), cluster)
    return CANDIDATES / (time.process_time() - started)


def serve() -> None:
    """Answer each line."""
    for line in sys.stdin:
        print(candidates_per_cpu_s(SearchSpace.load(f"search_spaces/{line.strip()}.yaml")), flush=True)


if __name__ == "__main__":
    serve()
