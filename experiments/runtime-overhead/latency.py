"""The latency of requests on an emulated cluster, over the least that computing and the wire would take."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sepnas.cost.critical_path import critical_path_s
from sepnas.cost.simulator import simulate
from sepnas.deploy.export import export_deployment
from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import emulated_cluster, open_session, read_setting
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import preset_cluster
from sepnas.train.checkpoint import new_network

NUM_DEVICES = 4
NETWORK, BOARD, LINK = "resnext56_4x16d", "raspberry-pi-3b-plus", "ethernet-100mbit"
REQUESTS, WARMUP, REPEATS = 40, 5, 5
TIMEOUT_S = 30.0


def cluster() -> Cluster:
    """Equal boards and the client, all on one network. Exchanging has no price of the board's: what the runtime needs
    for it here is what is measured."""
    found = preset_cluster((BOARD,) * NUM_DEVICES, LINK, "pi3-100mbit", rated=False)
    devices = tuple(device.model_copy(update={"exchange": None}) for device in found.devices)
    link = found.links[0].model_copy(update={"message_overhead_s": 0.0})
    return found.model_copy(update={"devices": devices, "links": (link,), "client_link": link})


def networks() -> dict[str, Architecture]:
    return {policy: named_architecture(NETWORK, NUM_DEVICES, policy) for policy in ("hand-made", "none")}


def measure(policy: str, architecture: Architecture) -> dict[str, Any]:
    """Medians of some sessions, in seconds, beside the floor and the prediction."""
    with tempfile.TemporaryDirectory(prefix="sepnas-overhead-") as name:
        folder = Path(name)
        channels = architecture.in_channels
        export_deployment(
            new_network(architecture), folder / "deployment", name="overhead", mean=(0.0,) * channels,
            classes=[str(number) for number in range(architecture.num_classes)], std=(1.0,) * channels,
        )  # fmt: skip
        path = cluster().save(folder / "cluster.yaml")
        setting = read_setting(folder / "deployment", path, "auto", 1, 0.0, insecure=False)
        latencies_s, late = [], []
        for _ in range(REPEATS):
            with emulated_cluster(setting) as running, open_session(setting, running, TIMEOUT_S) as session:
                found = run_bench(setting, session, REQUESTS, WARMUP)
            latencies_s.append(found.measured().median)
            late.append(found.late_share("steps"))
    return {
        "policy": policy,
        "shaping": setting.shaping,
        "compute_s": max(simulate(setting.plan, setting.cluster).compute_s),
        "floor_s": critical_path_s(setting.plan, setting.cluster),
        "predicted_s": simulate(setting.plan, setting.cluster).latency_s,
        "measured_s": latencies_s,
        "late_steps": max(late),
    }
