"""How many candidates are lowered and simulated a second on one core, and where the time goes."""

from __future__ import annotations

import cProfile
import pstats
import random
import statistics
import time
from pathlib import Path

from sepnas.cli.demo import simulation_rate
from sepnas.cost.simulator import simulate
from sepnas.plan.build import build_plan
from sepnas.report.recorder import Recorder
from sepnas.spec.architecture import Architecture, named_architecture
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.space import SearchSpace

HERE = Path(__file__).resolve().parent
SPACES = HERE.parent.parent / "search_spaces"
SEEDS = (0, 1, 2, 3, 4)
SAMPLE_S = 2.0
PROFILED = 1000
SHOWN = 15


def plan_rate_per_s(architecture: Architecture, cluster: Cluster) -> float:
    """The same architecture over and over."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SAMPLE_S:
        simulate(build_plan(architecture), cluster)
        count += 1
    return count / (time.perf_counter() - start)


def hottest(space: SearchSpace, cluster: Cluster) -> list[dict[str, object]]:
    """The functions that take most time of their own."""
    draw, profiler = random.Random(0).randrange, cProfile.Profile()
    profiler.enable()
    for _ in range(PROFILED):
        simulate(build_plan(space.architecture_of(space.sample(draw))), cluster)
    profiler.disable()
    stats = pstats.Stats(profiler).stats
    total_s = sum(own_s for _, _, own_s, _, _ in stats.values())
    rows = sorted(stats.items(), key=lambda item: -item[1][2])[:SHOWN]
    return [
        {
            "function": f"{Path(file).name}:{line} {name}" if line else name,
            "calls_per_candidate": round(calls / PROFILED, 2),
            "own_share": round(own_s / total_s, 4),
        }
        for (file, line, name), (_, calls, own_s, _, _) in rows
    ]


def main() -> None:
    with Recorder(HERE / "result.json", seeds=SEEDS, root=HERE) as record:
        for name in ("demo", "paper"):
            space = SearchSpace.load(SPACES / f"{name}.yaml")
            cluster = uniform_cluster(space.num_devices)
            rates = [simulation_rate(space, cluster, seed, SAMPLE_S) for seed in SEEDS]
            record.measure(
                f"candidates_simulated_per_s_{name}",
                statistics.median(rates),
                "1/s",
                min(rates),
                max(rates),
                len(rates),
            )
            record.table(f"profile_{name}", hottest(space, cluster))
        for policy in ("hand-made", "all-to-all"):
            architecture = named_architecture("resnext56_4x16d", 4, policy)
            rates = [plan_rate_per_s(architecture, uniform_cluster(4)) for _ in SEEDS]
            record.measure(
                f"plans_simulated_per_s_{policy.replace('-', '_')}",
                statistics.median(rates), "1/s", min(rates), max(rates), len(rates),
            )  # fmt: skip
        for measure in record.measures.values():
            print(f"{measure.name}: {measure.value:.0f} {measure.unit} ({measure.low:.0f} to {measure.high:.0f})")


if __name__ == "__main__":
    main()
