"""Is the assignment that the search finds the best there is, how long does it take, and how does that grow?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from small import EQUAL, compared

from sepnas.assign.assignment import Assignment, assignment_of
from sepnas.partition.graph import Graph
from sepnas.report.figures.style import BLUE, ORANGE, SETTINGS
from sepnas.results.recorder import Recorder
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import preset_cluster

HERE = Path(__file__).resolve().parent
CASES = {"latency": 24, "throughput": 6, "energy": 6, "peak_memory": 6}
"""Number of small cases for each objective."""
TIMED = {"vgg16": ("vgg16_search_s", "<= 10"), "efficientnet_b0": ("efficientnet_b0_search_s", "<= 60")}
REPEATS = {"vgg16": 3, "efficientnet_b0": 1}
BY_LAYERS = ("resnet18", "resnet34", "resnet50")
BY_DEVICES = (2, 4, 6, 8)


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


def timed(graph: Graph, cluster: Cluster) -> tuple[float, Assignment]:
    """Seconds of processor time, and what was found; a copy of a graph remembers nothing."""
    fresh = graph.model_copy()
    start_s = time.process_time()
    found = assignment_of(fresh, cluster)
    return time.process_time() - start_s, found


def small_cases(stop_s: float) -> list[dict[str, Any]]:
    """Cases of each objective; none is begun after ``stop_s`` on the monotonic clock."""
    rows: list[dict[str, Any]] = []
    for seed in range(1000):
        for objective, count in CASES.items():
            if sum(row["objective"] == objective for row in rows) < count and time.monotonic() < stop_s:
                row = compared(seed, objective)
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


def grown(pairs: Iterable[tuple[Mapping[str, Any], Graph, Cluster]]) -> list[dict[str, Any]]:
    rows = []
    for facts, graph, cluster in pairs:
        spent_s, found = timed(graph, cluster)
        rows.append({**facts, "operators": len(graph.nodes), "search_s": round(spent_s, 2), "priced": found.num_priced})
        print(rows[-1], flush=True)
    return rows


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
    parser.add_argument("--small-s", type=float, default=float("inf"), help="begin no small case later than this")
    args = parser.parse_args()
    with Recorder(HERE / "result.json", seeds=range(CASES["latency"]), root=HERE) as record:
        for name, (measure, goal) in TIMED.items():
            runs = [timed(graph_of(name, args.graphs), cluster_of(8)) for _ in range(REPEATS[name])]
            times = sorted(spent_s for spent_s, _ in runs)
            record.measure(measure, times[len(times) // 2], "s", times[0], times[-1], len(times), goal)
            record.table(f"alternatives_{name}", alternatives(runs[0][1]))
            print(name, times, flush=True)
        layers = [({"network": name}, graph_of(name, args.graphs), cluster_of(4)) for name in BY_LAYERS]
        resnet = graph_of("resnet18", args.graphs)
        devices = [({"devices": count}, resnet, cluster_of(count)) for count in BY_DEVICES]
        by_layers, by_devices = grown(layers), grown(devices)
        record.table("by_layers", by_layers)
        record.table("by_devices", by_devices)
        draw(by_layers, by_devices)
        record_small(record, small_cases(time.monotonic() + args.small_s))
        for found in record.measures.values():
            print(f"{found.name}: {found.value:.4g} {found.unit}")


if __name__ == "__main__":
    main()
