"""Is the assignment that the search finds the best there is, how long does it take, and how does that grow?"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from kept import Kept, digest_of
from matplotlib import rc_context
from matplotlib.figure import Figure
from programs import large, small, summed
from small import EQUAL, compared

import sepnas.assign
from sepnas.assign.assignment import Assignment, assignment_of
from sepnas.partition.graph import Graph
from sepnas.report.figures.style import BLUE, ORANGE, SETTINGS
from sepnas.results.recorder import Recorder
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import preset_cluster

HERE = Path(__file__).resolve().parent
CODE = ("small.py", "programs.py", "integer_program.py")
"""Of other files of these names, or another `sepnas.assign`, nothing is kept."""
CASES = {"latency": 24, "throughput": 24, "energy": 12, "total_bytes": 12, "peak_memory": 24}
"""Number of small cases for each objective."""
TIMED = {"vgg16": ("vgg16_search_s", "<= 10"), "efficientnet_b0": ("efficientnet_b0_search_s", "<= 60")}
REPEATS = {"vgg16": 3, "efficientnet_b0": 1}
BY_LAYERS = ("resnet18", "resnet34", "resnet50")
BY_DEVICES = (2, 4, 6, 8)
PROGRAMS = ("total_bytes", "throughput", "peak_memory")
"""The objectives that an integer program knows."""
PROGRAM_SEEDS = range(24)
BRANCHING = {"squeezenet1_1": 3, "resnet18": 3, "googlenet": 2}
"""Networks with branches, and the number of devices."""


def cluster_of(devices: int) -> Cluster:
    return preset_cluster(["raspberry-pi-4b"] * devices, "ethernet-100mbit", name=f"{devices} raspberry-pi-4b")


def graph_of(name: str, folder: Path) -> Graph:
    """The graph of one of torchvision's networks at 224 pixels, kept in a file."""
    path = folder / f"{name}.json"
    if not path.exists():
        from sepnas.importing.run import trace_found
        from sepnas.importing.source import find_network

        folder.mkdir(parents=True, exist_ok=True)
        trace_found(find_network(f"torchvision:{name}")).graph.save(path)
    return Graph.load(path)


def timed(graph: Graph, cluster: Cluster) -> dict[str, Any]:
    """Seconds of processor time, and what was found; a copy of a graph remembers nothing. ``load`` is the machine's."""
    fresh, load = graph.model_copy(), os.getloadavg()[0]
    start_s = time.process_time()
    found = assignment_of(fresh, cluster)
    return {
        "search_s": round(time.process_time() - start_s, 2), "load": round(load, 1), "operators": len(graph.nodes),
        "priced": found.num_priced, "alternatives": alternatives(found),
    }  # fmt: skip


def small_cases(kept: Kept) -> list[dict[str, Any]]:
    """So many cases of each objective, of the first seeds that are small enough."""
    rows: list[dict[str, Any]] = []
    for objective, count in CASES.items():
        seeds = iter(range(1000))
        while sum(row["objective"] == objective for row in rows) < count:
            seed = next(seeds)
            row = kept.get(f"small {objective} {seed}", lambda: compared(seed, objective))  # noqa: B023
            rows += [row] if row else []
    return rows


def record_small(record: Recorder, rows: list[dict[str, Any]]) -> None:
    """Fractions and the worst ratio, over all objectives."""
    for key, name in (
        ("ratio", "small_cases_optimal_fraction"),
        ("ratio_of_dynamic_programming", "small_cases_optimal_fraction_without_changes"),
        ("ratio_of_whole_search", "small_cases_optimal_fraction_whole_search"),
    ):
        optimal = sum(row[key] <= EQUAL for row in rows) / len(rows)
        record.measure(name, optimal, n=len(rows), goal="== 1" if key != "ratio_of_dynamic_programming" else None)
    for objective in CASES:
        own = [row for row in rows if row["objective"] == objective]
        record.table(f"small_cases_{objective}", [{
            "cases": len(own),
            **{f"optimal_{key}": sum(row[key] <= EQUAL for row in own) for key in own[0] if key.startswith("ratio")},
        }])  # fmt: skip
    record.measure("small_cases_worst_ratio", max(row["ratio"] for row in rows), n=len(rows), goal="<= 1.000000001")
    record.table("small_cases", rows)


def alternatives(found: Assignment) -> list[dict[str, Any]]:
    return [
        {
            "scheme": each.scheme, "devices": len(each.devices), "latency_ms": round(1e3 * each.costs["latency_s"], 2),
            "throughput_per_s": round(each.costs["throughput_per_s"], 3), "payload_bytes": each.costs["payload_bytes"],
            "memory_bytes": each.costs["memory_bytes"],
        }
        for each in found.alternatives
    ]  # fmt: skip


def record_times(record: Recorder, kept: Kept, graphs: Path, again: bool) -> None:
    """Searches over eight devices, and how their time grows."""
    for name, (measure, goal) in TIMED.items():
        runs = [
            kept.get(f"time {name} {number}", lambda: timed(graph_of(name, graphs), cluster_of(8)), again)  # noqa: B023
            for number in range(REPEATS[name])
        ]
        times = sorted(run["search_s"] for run in runs)
        record.measure(measure, times[len(times) // 2], "s", times[0], times[-1], len(times), goal)
        record.table(f"alternatives_{name}", runs[0]["alternatives"])
        print(name, times, flush=True)
    by_layers = [grown(kept, {"network": name}, graph_of(name, graphs), 4, again) for name in BY_LAYERS]
    by_devices = [grown(kept, {"devices": count}, graph_of("resnet18", graphs), count, again) for count in BY_DEVICES]
    record.table("by_layers", by_layers)
    record.table("by_devices", by_devices)
    draw(by_layers, by_devices)


def grown(kept: Kept, facts: dict[str, Any], graph: Graph, devices: int, again: bool) -> dict[str, Any]:
    row = kept.get(f"growth {facts}", lambda: timed(graph, cluster_of(devices)), again)
    print(facts, row["search_s"], flush=True)
    return {**facts, **{name: row[name] for name in ("operators", "search_s", "load", "priced")}}


def record_programs(record: Recorder, kept: Kept, graphs: Path) -> None:
    """The integer program against dynamic programming."""
    found = [
        kept.get(f"program {objective} {seed}", lambda: small(seed, objective))  # noqa: B023
        for objective in PROGRAMS
        for seed in PROGRAM_SEEDS
    ]
    record.table("integer_program_small_cases", summed([row for row in found if row]))
    rows = [
        kept.get(f"program {objective} {name}", lambda: large(graph_of(name, graphs), cluster_of(count), objective))  # noqa: B023
        for name, count in BRANCHING.items()
        for objective in PROGRAMS
    ]
    record.table("integer_program_branching_networks", rows)


def draw(by_layers: list[dict[str, Any]], by_devices: list[dict[str, Any]]) -> None:
    with rc_context(dict(SETTINGS)):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        left.plot([row["operators"] for row in by_layers], [row["search_s"] for row in by_layers], "o-", color=BLUE)
        left.set(xlabel="operators (ResNets over 4 devices)", ylabel="search, s", xlim=(0, None), ylim=(0, None))
        right.plot([row["devices"] for row in by_devices], [row["search_s"] for row in by_devices], "o-", color=ORANGE)
        right.set(xlabel="devices (ResNet-18)", ylabel="search, s", xlim=(0, None), ylim=(0, None))
        figure.savefig(HERE / "growth.svg", facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=Path, default=Path("runs/partition-assignment"))
    parser.add_argument("--kept", type=Path, default=HERE / "measured.jsonl", help="what has been measured so far")
    parser.add_argument("--timings", action="store_true", help="measure all times again, and only what is missing else")
    args = parser.parse_args()
    kept = Kept(args.kept, digest_of([*Path(sepnas.assign.__file__).parent.glob("*.py"), *map(HERE.joinpath, CODE)]))
    with Recorder(HERE / "result.json", seeds=range(CASES["latency"]), root=HERE) as record:
        record_times(record, kept, args.graphs, args.timings)
        record_small(record, small_cases(kept))
        record_programs(record, kept, args.graphs)
        for found in record.measures.values():
            print(f"{found.name}: {found.value:.4g} {found.unit}")


if __name__ == "__main__":
    main()
