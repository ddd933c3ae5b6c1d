"""The separated networks on boards: latency, bytes and memory beside one board and the best exact split, predicted."""

from __future__ import annotations

from typing import Any

from run import HERE, LINKS, Experiment, cluster_of, experiment_of, parser_of, run_main

from sepnas import api
from sepnas.assign.assign import assign
from sepnas.partition.graph import load_graph
from sepnas.plan.document import load_plan
from sepnas.plan.plan import Plan
from sepnas.results.recorder import Recorder
from sepnas.separation.document import PLAN_NAME
from sepnas.spec.cluster import Cluster

Row = dict[str, Any]


def row_of(name: str, link: str, plan: Plan, cluster: Cluster, accuracy: float | None) -> Row:
    found = api.simulate(plan, cluster)
    return {
        "network": name, "link": link, "devices": cluster.num_devices,
        "latency_ms": round(1e3 * found.latency_s, 1), "kilobytes": round(plan.payload_bytes() / 1e3, 1),
        "largest_memory_mb": round(max(found.simulation.peak_memory_bytes) / 1e6, 1), "test_accuracy": accuracy,
    }  # fmt: skip


def rows_of(experiment: Experiment, link: str) -> list[Row]:
    """One board, the best exact split in fp32 and int8, and each separated network, over as many boards."""
    seed = experiment.settings["seeds"][0]
    whole, first = experiment.reference(seed), experiment.found(experiment.reference_name(seed)) or {}
    graph, counts = load_graph(whole), sorted({cell.devices for cell in experiment.cells()})
    one = cluster_of(1, link)
    rows = [row_of("whole, one board", link, assign(graph, one).chosen.plan, one, first.get("test_accuracy"))]
    for count in counts:
        boards = cluster_of(count, link)
        for wire in ("fp32", "int8"):
            best = assign(graph, boards, wire=wire).chosen
            rows.append(
                row_of(f"best exact split, {wire}: {best.scheme}", link, best.plan, boards, first.get("test_accuracy"))
            )
    for cell in experiment.cells():
        found = experiment.found_cell(cell)
        if found and cell.seed == seed:
            name = f"separated, {100 * cell.share:g} % in {cell.wire}, tiles {cell.tiles}, points {cell.points}"
            plan = load_plan(experiment.out / cell.name / PLAN_NAME)
            rows.append(row_of(name, link, plan, cluster_of(cell.devices, link), found["test_accuracy"]))
    return rows


def main() -> None:
    chosen = parser_of(__doc__).parse_args()
    experiment = experiment_of(chosen)
    rows = [row for link in LINKS for row in rows_of(experiment, link)]
    with Recorder(experiment.home / "boards.json", root=HERE) as record:
        record.table("boards", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    run_main(main)
