"""Is the latency that the simulator predicts the latency that the cluster has?"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from functools import partial
from pathlib import Path

from cells import Cells, Row
from clusters import KINDS, make_cluster
from emulated import facts_of, measure_emulated
from figure import draw
from plans import plans_for
from real import measure_real_cluster
from scipy.stats import spearmanr
from shaper import check_shapers

from sepnas.cost.cross_validation import held_out_errors
from sepnas.deployment.engines.registry import exact_engines
from sepnas.results.recorder import Recorder
from sepnas.search.canonical import plan_key
from sepnas.search.rate import simulation_rate
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster, uniform_cluster

HERE = Path(__file__).resolve().parent
SPACES = HERE.parent.parent / "search_spaces"
SEEDS = (0, 1, 2, 3, 4)
RATE_SAMPLE_S = 2.0


def emulated_rows(cells: Cells, clusters: list[str], shaping: str, deadline: float) -> list[Row]:
    """Every plan on every cluster."""
    rows = []
    for cluster_name in clusters:
        cluster = make_cluster(cluster_name)
        for name, architecture in plans_for(cluster_name).items():
            if time.monotonic() > deadline:
                raise SystemExit(f"time is up: {len(cells.found)} plans are kept in {cells.path}; run it again")
            key = f"{cluster_name}-{_fingerprint(cluster)} {shaping} {name} {plan_key(build_plan(architecture))}"
            row = facts_of(architecture, cluster) | cells.get(
                key, partial(measure_emulated, architecture, cluster, shaping)
            )
            ratio = row["measured_s"] / row["predicted_s"]
            rows.append({"cluster": cluster_name, "plan": name, **row, "ratio": ratio})
            print(_line(rows[-1]), flush=True)
    return rows


def _fingerprint(cluster: Cluster) -> str:
    return hashlib.sha256(json.dumps(cluster.to_data(), sort_keys=True).encode()).hexdigest()[:8]


def _line(row: Row) -> str:
    predicted_s, measured_s = row["predicted_s"], row["measured_s"]
    times = f"predicted {predicted_s:8.4f} s, measured {measured_s:8.4f} s, {row['ratio']:.3f}"
    return f"{row['cluster']:12} {row['plan']:20} {times}, {measured_s / row['floor_s']:.2f} of the floor"


def errors_of(rows: list[Row]) -> list[float]:
    return [abs(row["predicted_s"] / row["measured_s"] - 1) for row in rows]


def record_emulated(record: Recorder, rows: list[Row]) -> None:
    errors = errors_of(rows)
    record.measure("latency_mape_emulated", sum(errors) / len(errors), "", n=len(rows), goal="<= 0.08")
    record.measure("latency_worst_error_emulated", max(errors), "", n=len(rows), goal="<= 0.2")
    for name in dict.fromkeys(row["cluster"] for row in rows):
        own = errors_of([row for row in rows if row["cluster"] == name])
        record.measure(f"latency_mape_{name.replace('-', '_')}", sum(own) / len(own), "", min(own), max(own), len(own))
    found = spearmanr([row["predicted_s"] for row in rows], [row["measured_s"] for row in rows])
    record.measure("latency_spearman_emulated", float(found.statistic), "", n=len(rows), goal=">= 0.97")
    for what in ("predicted", "measured"):
        ratios = [row[f"{what}_s"] / row["floor_s"] for row in rows]
        record.measure(
            f"{what}_over_floor", sum(ratios) / len(ratios), "", min(ratios), max(ratios), len(ratios)
        )  # fmt: skip
    record.table("emulated", rows)


def record_real(record: Recorder, suffix: str, rows: list[Row]) -> None:
    errors = errors_of(rows)
    record.measure(
        f"latency_mape_real{suffix}", sum(errors) / len(errors), "", min(errors), max(errors), len(rows), "<= 0.12"
    )  # fmt: skip


def record_profile(record: Recorder, suffix: str, cluster: Cluster) -> None:
    """How well half of the measured operators tell the other half."""
    profile = cluster.devices[0].profile
    assert profile is not None
    medians = []
    for seed in SEEDS:
        errors = sorted(held_out_errors(profile, seed))
        medians.append(errors[len(errors) // 2])
    record.measure(
        f"profile_held_out_median_error{suffix}", sum(medians) / len(medians), "", min(medians), max(medians),
        len(medians), "<= 0.1",
    )  # fmt: skip
    record.measure(f"profile_noise{suffix}", profile.machine.noise)


def record_rate(record: Recorder) -> None:
    """Candidates a second, where exchanging costs nothing and where it costs all that it can."""
    boards = make_cluster("100mbit")
    for name, space_name, cluster in (
        ("candidates_per_s", "paper", None),
        ("candidates_per_s_full_space", "resnext56-full", None),
        ("candidates_per_s_full_space_with_exchange", "resnext56-full", boards),
    ):
        space = SearchSpace.load(SPACES / f"{space_name}.yaml")
        on = cluster or uniform_cluster(space.num_devices)
        rates = sorted(simulation_rate(space, on, seed, RATE_SAMPLE_S) for seed in SEEDS)
        goal = ">= 2000" if cluster is None else None
        record.measure(name, rates[len(rates) // 2], "1/s", rates[0], rates[-1], len(rates), goal)


def record_shapers(record: Recorder, rows: list[Row]) -> None:
    """How far the links that the emulation makes are from what they are set to."""
    for what, key in (("message", "message_{}_s"), ("bandwidth", "bandwidth_{}_bytes_per_s")):
        errors = [abs(row[key.format("measured")] / row[key.format("set")] - 1) for row in rows]
        record.measure(f"link_{what}_error", sum(errors) / len(errors), "", min(errors), max(errors), len(errors))
    for name, key, unit in (
        ("iperf3_of_set_bandwidth", "iperf3_by_set", ""),
        ("ping_beneath_the_latency", "ping_s", "s"),
    ):
        found = [row[key] for row in rows if key in row]
        if found:
            record.measure(name, sum(found) / len(found), unit, min(found), max(found), len(found))
    record.table("links", rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--shaping", choices=("auto", "process", "netns"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/cost-model"))
    parser.add_argument("--profile-seconds", type=float, default=180.0)
    parser.add_argument("--stop-after-s", type=float, default=float("inf"))
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    deadline = time.monotonic() + chosen.stop_after_s
    with Recorder(HERE / "result.json", seeds=SEEDS, root=HERE) as record:
        rows = emulated_rows(Cells(chosen.out / "emulated.jsonl"), chosen.clusters, chosen.shaping, deadline)
        record_emulated(record, rows)
        real: list[Row] = []
        for engine in exact_engines():
            found, cluster = measure_real_cluster(chosen.out, chosen.profile_seconds, engine)
            suffix = "" if engine == "torch" else f"_{engine}"
            record_real(record, suffix, found)
            record_profile(record, suffix, cluster)
            real += found
        record.table("real", real)
        record_shapers(record, check_shapers())
        record_rate(record)
        draw(rows, real, HERE / "latency.svg")
        for measure in record.measures.values():
            print(f"{measure.name}: {measure.value:.4g} {measure.unit}")


if __name__ == "__main__":
    main()
