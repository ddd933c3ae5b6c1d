"""Engines that boards use beside torch and onnxruntime: the time of a pass, each in a process of its own, by turns.

litert is one of sepnas' engines; OpenVINO, ncnn and ExecuTorch are tried here only (``others.py``), where installed:
``pip install -c constraints.txt openvino ncnn executorch``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

from others import ENGINES as OTHERS
from run import HERE, NETWORKS, POLICIES, export, pass_seconds, worker_facts

from sepnas.deployment.engines.registry import exact_engines
from sepnas.results.recorder import Recorder
from sepnas.separable.architecture import named_architecture

DEVICES = 4
BASE, KEPT = "onnxruntime", "litert"


def seconds(shard: Path, engine: str) -> float:
    """A pass over a device's segments in one engine."""
    if engine not in OTHERS:
        return pass_seconds(shard, engine)
    command = [sys.executable, str(HERE / "others.py"), str(shard), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(name: str, policy: str, folder: Path, engines: list[str], repeats: int) -> dict[str, Any]:
    export(named_architecture(name, DEVICES, policy), folder, exact_engines())
    shard = folder / "device0"
    passes: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(repeats):
        for engine, found in passes.items():
            found.append(seconds(shard, engine))
    row: dict[str, Any] = {
        "network": name, "policy": policy, "weights_bytes": (shard / "weights.safetensors").stat().st_size
    }  # fmt: skip
    row |= {f"{engine}_pass_s": median(found) for engine, found in passes.items()}
    row |= {f"{engine}_least_pass_s": min(found) for engine, found in passes.items()}
    for engine in (BASE, KEPT):
        ready_s, rss_bytes = worker_facts(shard, engine)
        row |= {f"{engine}_ready_s": ready_s, f"{engine}_rss_bytes": rss_bytes}
    print(row, flush=True)
    return row


def record_spread(record: Recorder, name: str, found: list[float], unit: str, goal: str | None) -> None:
    measure = record.measure(name, fmean(found), unit, min(found), max(found), len(found), goal)
    print(f"{name}: {measure.value:.4g} ({measure.low:.4g} to {measure.high:.4g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    engines = [*exact_engines(), *(name for name in OTHERS if find_spec(name))]
    recorder = Recorder(HERE / "result-boards.json", seeds=(0,), root=HERE)
    with recorder as record, tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, policy, Path(folder) / f"{name}-{policy}", engines, chosen.repeats)
            for name in chosen.networks
            for policy in POLICIES
        ]
        for engine in engines:
            if engine != BASE:
                ratios = [row[f"{BASE}_least_pass_s"] / row[f"{engine}_least_pass_s"] for row in rows]
                goal = "> 1" if engine == KEPT else None
                record_spread(record, f"speedup_{engine}_over_{BASE}", ratios, "", goal)
        for engine in (BASE, KEPT):
            beyond = [row[f"{engine}_rss_bytes"] - row["weights_bytes"] for row in rows]
            record_spread(record, f"boards_worker_rss_bytes_{engine}_beyond_weights", beyond, "B", None)
            ready_s = [row[f"{engine}_ready_s"] for row in rows]
            record_spread(record, f"boards_worker_ready_s_{engine}", ready_s, "s", None)
        record.table("boards", rows)


if __name__ == "__main__":
    main()
