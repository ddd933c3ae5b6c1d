"""One plan on one emulated cluster: predicted, measured, and the physical floor."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cells import Row

from sepnas.cost.critical_path import critical_path_s
from sepnas.cost.simulator import simulate
from sepnas.deploy.export import export_deployment
from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import ShapingChoice, emulated_cluster, open_session, read_setting
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster
from sepnas.train.checkpoint import new_network

MEASURED_S, MAX_REQUESTS, MIN_REQUESTS = 6.0, 60, 5
TIMEOUT_S = 60.0


def export(architecture: Architecture, folder: Path, engine: str = "torch") -> None:
    """A deployment with random weights: what they are does not change what they take."""
    classes = [str(number) for number in range(architecture.num_classes)]
    channels = architecture.in_channels
    export_deployment(
        new_network(architecture), folder, name="cost-model", classes=classes, mean=(0.0,) * channels,
        std=(1.0,) * channels, engines=(engine,),
    )  # fmt: skip


def num_requests(predicted_s: float) -> int:
    """As many as take some seconds."""
    return min(MAX_REQUESTS, max(MIN_REQUESTS, round(MEASURED_S / predicted_s)))


def facts_of(architecture: Architecture, cluster: Cluster) -> Row:
    """What is known before anything runs."""
    plan = build_plan(architecture)
    simulated = simulate(plan, cluster)
    return {
        "devices": plan.num_devices,
        "payload_bytes": plan.payload_bytes(),
        "messages": len(plan.transfers()),
        "compute_s": max(simulated.compute_s),
        "floor_s": critical_path_s(plan, cluster),
        "predicted_s": simulated.latency_s,
    }


def measure_emulated(architecture: Architecture, cluster: Cluster, shaping: ShapingChoice) -> Row:
    """The median latency of real requests through real workers that emulate the cluster."""
    requests = num_requests(facts_of(architecture, cluster)["predicted_s"])
    with tempfile.TemporaryDirectory(prefix="sepnas-cost-model-") as name:
        folder = Path(name)
        export(architecture, folder / "deployment")
        path = cluster.save(folder / "cluster.yaml")
        setting = read_setting(folder / "deployment", path, shaping, 1, 0.0, insecure=False)
        with emulated_cluster(setting) as running, open_session(setting, running, TIMEOUT_S) as session:
            found = run_bench(setting, session, requests, warmup=2)
    measured = found.measured()
    return {
        "measured_s": measured.median,
        "measured_p95_s": measured.p95,
        "requests": found.result.requests,
        "shaping": setting.shaping,
        "late_steps": found.late_share("steps"),
        "late_messages": found.late_share("messages"),
    }
