"""The emulated cluster: four boards with the separable network against one board with the original, the same engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from clusters import preset_boards, profile_device, profiled_boards
from measure import relative_difference
from networks import requests, trained, under
from prepare import export, whole_answers

from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import Setting, emulated_cluster, open_session, read_setting
from sepnas.nets.separable import SeparableNetwork
from sepnas.report.from_trace import measured_timeline
from sepnas.runtime.client.session import Session
from sepnas.separable.patterns import hand_made_policy, point, ring
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.cluster import Cluster

Row = dict[str, Any]
NETWORKS = ("resnext56_4x64d", "resnext56_4x16d")
REPEATS = 5
REQUESTS = {1: 2, 4: 6}
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cell:
    """Boards by their own profile of ``engine``, or (``preset``) by the rate of the preset."""

    network: str
    boards: str
    engine: str
    policy: str
    parts: int


def cells() -> Iterator[Cell]:
    """First those of the larger network; each kind of board once alone, with the original."""
    kinds: tuple[tuple[str, str], ...] = (
        ("profile", "torch"),
        ("profile", "onnxruntime"),
        ("preset", "onnxruntime"),
    )
    for network in NETWORKS:
        for boards, engine in kinds:
            yield Cell(network, boards, engine, "none", 1)
            for policy in POLICIES:
                yield Cell(network, boards, engine, policy, 4)


def few_bytes(num_devices: int, blocks_per_stage: tuple[int, ...]) -> TransmissionPolicy:
    """One exchange a stage: a quarter of the channels to one other device, in int8, merged a block later."""
    firsts = [sum(blocks_per_stage[:stage]) for stage in range(len(blocks_per_stage))]
    pairs = [ring(num_devices, 1 + stage % (num_devices - 1)) for stage in range(len(firsts))]
    points = [point(first, p, 0.25, "int8", lag=1) for first, p in zip(firsts, pairs, strict=True)]
    return TransmissionPolicy(name="few-bytes", points=tuple(points))


POLICIES: dict[str, Callable[[int, tuple[int, ...]], TransmissionPolicy]] = {
    "hand-made": hand_made_policy,
    "few-bytes": few_bytes,
}


@cache
def network_of(network: str, policy: str, parts: int, folder: Path) -> SeparableNetwork:
    """The trained weights, under this policy."""
    whole = trained(network, parts, folder)
    return under(whole, POLICIES[policy](parts, whole.architecture.blocks_per_stage)) if parts > 1 else whole


def cluster_of(cell: Cell, folder: Path, profile_seconds: float) -> Cluster:
    if cell.boards == "preset":
        return preset_boards(cell.parts)
    profile = profile_device(cell.engine, folder, profile_seconds)
    return profiled_boards(cell.parts, cell.network, cell.engine, profile)


def measure_cell(cell: Cell, folder: Path, profile_seconds: float) -> Row:
    """The latency of real requests through real workers that take the time of the boards and links."""
    network = network_of(cell.network, cell.policy, cell.parts, folder)
    with tempfile.TemporaryDirectory(prefix="sepnas-peers-") as name:
        deployment, path = Path(name) / "deployment", Path(name) / "cluster.yaml"
        export(network, deployment, (cell.engine,))
        cluster_of(cell, folder, profile_seconds).save(path)
        setting = read_setting(deployment, path, "auto", 1, 0.0, insecure=False)
        with emulated_cluster(setting) as running:
            sessions = []
            for _ in range(REPEATS):
                with open_session(setting, running, TIMEOUT_S) as session:
                    sessions.append(one_session(setting, session, network))
    medians_s = [found["latency_s"] for found in sessions]
    return sessions[-1] | {
        "latency_s": fmean(medians_s),
        "latencies_s": medians_s,
        "largest_relative_difference": max(found["largest_relative_difference"] for found in sessions),
        "late_share_of_steps": max(found["late_share_of_steps"] for found in sessions),
        "shaping": setting.shaping,
    }


def one_session(setting: Setting, session: Session, network: SeparableNetwork) -> Row:
    """Some requests after one that warms up; what the device that answers did in the last one."""
    found = run_bench(setting, session, REQUESTS[setting.plan.num_devices], warmup=1)
    timeline = measured_timeline(session.trace(1).requests[-1])
    doing = {
        f"reader_{kind}_s": sum(each.seconds for each in timeline.activities if (each.rank, each.kind) == (0, kind))
        for kind in ("compute", "wait", "send", "recv", "merge")
    }
    images, expected = requests()[:1], expected_of(network)[:1]
    return {
        "latency_s": found.result.latency_median_s,
        "predicted_s": found.predicted.median,
        "payload_bytes": found.result.payload_bytes_per_request,
        "frame_bytes": found.result.frame_bytes_per_request,
        "late_share_of_steps": found.late_share("steps"),
        "largest_relative_difference": relative_difference(session.ask(images).logits, expected),
        **doing,
    }


@cache
def expected_of(network: SeparableNetwork) -> np.ndarray:
    return whole_answers(network)


def speedups(rows: list[Row]) -> list[Row]:
    """Beside each row over four devices how many times sooner its answer is than one device's with the original."""
    alone = {(row["network"], row["boards"], row["engine"]): row for row in rows if row["parts"] == 1}
    for row in rows:
        one = alone[row["network"], row["boards"], row["engine"]]
        row["speedup"] = one["latency_s"] / row["latency_s"]
        pairs = zip(one["latencies_s"], row["latencies_s"], strict=True)
        row["speedups"] = [whole_s / parts_s for whole_s, parts_s in pairs]
    return rows
