"""How many candidates are lowered and simulated a second on one core, how that grows, and where the time goes."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from before import compare
from matplotlib import rc_context
from matplotlib.figure import Figure
from overhead import measure_overhead
from trials import measure_trials

from sepnas.cost.simulator import simulate
from sepnas.report.figures.style import BLUE, ORANGE, SETTINGS
from sepnas.results.recorder import Recorder
from sepnas.search.rate import simulation_rate
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.patterns import point, ring
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster

HERE = Path(__file__).resolve().parent
SPACES = HERE.parent.parent / "search_spaces"
SEEDS = (0, 1, 2, 3, 4)
SAMPLE_S = 2.0
GROWTH_REPEATS = 200
PROFILED = 1000
SHOWN = 15
DEVICES = (2, 4, 8, 12, 16, 20, 24, 28, 32)
DEPTHS = (11, 20, 29, 38, 56, 74, 92, 110)


def hottest(space: SearchSpace) -> list[dict[str, object]]:
    """The functions that take most time of their own."""
    draw, profiler, cluster = random.Random(0).randrange, cProfile.Profile(), uniform_cluster(space.num_devices)
    profiler.enable()
    for _ in range(PROFILED):
        simulate(build_plan(space.architecture_of(space.sample(draw))), cluster)
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
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


def ring_network(num_devices: int, depth: int) -> Architecture:
    """Every device sends to its neighbour after every block, all read out: transfers grow with devices and blocks."""
    blocks = 3 * ((depth - 2) // 9)
    points = tuple(point(block, ring(num_devices, 1)) for block in range(blocks))
    policy = TransmissionPolicy(points=points, readout=Readout(kind="mean"))
    return named_architecture(f"resnext{depth}_{num_devices}x16d", num_devices, policy)


def plan_s(architecture: Architecture) -> float:
    """Median seconds to lower and simulate."""
    cluster = uniform_cluster(architecture.num_devices)
    durations_s = []
    for _ in range(GROWTH_REPEATS):
        start = time.perf_counter()
        simulate(build_plan(architecture), cluster)
        durations_s.append(time.perf_counter() - start)
    return statistics.median(durations_s)


def growth(column: str, sizes: Iterable[int], make: Callable[[int], Architecture]) -> list[dict[str, Any]]:
    return [{column: size, "us": round(1e6 * plan_s(make(size)), 1)} for size in sizes]


def straightness(rows: list[dict[str, Any]], column: str) -> float:
    """The coefficient of determination of a straight line through the rows."""
    return statistics.correlation([row[column] for row in rows], [row["us"] for row in rows]) ** 2


def draw_growth(by_devices: list[dict[str, Any]], by_blocks: list[dict[str, Any]]) -> None:
    with rc_context(dict(SETTINGS)):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained", facecolor="white")
        looks = ((by_devices, "devices", BLUE), (by_blocks, "blocks", ORANGE))
        for axes, (rows, column, colour) in zip(figure.subplots(1, 2), looks, strict=True):
            axes.plot([row[column] for row in rows], [row["us"] / 1e3 for row in rows], "o-", color=colour)
            axes.set(xlabel=column, ylabel="ms a candidate", xlim=(0, None), ylim=(0, None))
        figure.savefig(HERE / "growth.svg", facecolor="white")


def measure_all() -> None:
    with Recorder(HERE / "result.json", seeds=SEEDS, root=HERE) as record:
        for name in ("paper", "resnext56-full", "demo"):
            space = SearchSpace.load(SPACES / f"{name}.yaml")
            cluster = uniform_cluster(space.num_devices)
            rates = [simulation_rate(space, cluster, seed, SAMPLE_S) for seed in SEEDS]
            measure = "candidates_per_s" if name == "paper" else f"candidates_per_s_{name.replace('-', '_')}"
            goal = ">= 2000" if space.num_devices == 4 else None  # the goal is for ResNeXt-56 over four devices
            record.measure(measure, statistics.median(rates), "1/s", min(rates), max(rates), len(rates), goal)
            record.table(f"profile_{name.replace('-', '_')}", hottest(space))
        for policy in ("hand-made", "all-to-all"):
            rates = [1 / plan_s(named_architecture("resnext56_4x16d", 4, policy)) for _ in SEEDS]
            measure = f"plans_per_s_{policy.replace('-', '_')}"
            record.measure(measure, statistics.median(rates), "1/s", min(rates), max(rates), len(rates))
        by_devices = growth("devices", DEVICES, lambda size: ring_network(size, 56))
        by_blocks = [
            {"blocks": 3 * ((row["depth"] - 2) // 9), **row}
            for row in growth("depth", DEPTHS, lambda depth: ring_network(4, depth))
        ]
        record.table("by_devices", by_devices)
        record.table("by_blocks", by_blocks)
        record.measure("straightness_over_devices", straightness(by_devices, "devices"), goal=">= 0.98")
        record.measure("straightness_over_blocks", straightness(by_blocks, "blocks"), goal=">= 0.98")
        draw_growth(by_devices, by_blocks)
        measure_overhead(record)
        measure_trials(record)
        for measure in record.measures.values():
            print(f"{measure.name}: {measure.value:.4g} {measure.unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit instead, in result-before.json")
    chosen = parser.parse_args()
    if not chosen.before:
        measure_all()
        return
    with Recorder(HERE / "result-before.json", seeds=(0,), root=HERE) as record:
        compare(record, chosen.before)


if __name__ == "__main__":
    main()
