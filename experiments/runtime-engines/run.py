"""What the engines of a device cost: time of a pass, memory and start of a worker, each in a process of its own.

And what int8 costs in accuracy, with ``--trained``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from sepnas import api
from sepnas.deploy.export import export_deployment
from sepnas.deployment.engines.registry import engine_names, engines
from sepnas.measure.run_images import RunImages
from sepnas.nets.separable import SeparableNetwork
from sepnas.results.recorder import Recorder
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.train.checkpoint import load_network

HERE = Path(__file__).resolve().parent
DEVICES = 4
NETWORKS = ("resnext20_4x4d", "resnext20_4x16d", "resnext29_8x16d", "resnext56_4x16d", "resnext56_4x64d")
POLICIES = ("none", "hand-made")


def export(architecture: Architecture, folder: Path, engines: tuple[str, ...] = engine_names()) -> None:
    torch.manual_seed(0)
    classes = [f"class {index}" for index in range(architecture.num_classes)]
    numbers = (0.5,) * architecture.in_channels
    network = SeparableNetwork(architecture)
    side = architecture.image_size
    images_NCHW = torch.randn(32, architecture.in_channels, side, side)
    export_deployment(
        network, folder, name="engines", classes=classes, mean=numbers, std=numbers, engines=engines,
        calibration_NCHW=images_NCHW,
    )  # fmt: skip


def pass_seconds(shard: Path, engine: str) -> float:
    """A pass over device 0's segments, one sample, one thread."""
    command = [sys.executable, "-m", "sepnas.runtime.engines.choice", shard, engine, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def worker_facts(shard: Path, engine: str) -> tuple[float, int]:
    """Seconds from the start of a worker to its line, and its resident memory then."""
    command = [sys.executable, "-m", "sepnas", "worker", shard, "--listen", "127.0.0.1:0", "--engine", engine]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            ready_s = time.perf_counter() - start
            if "listens on" not in line:
                raise SystemExit(f"the worker did not get ready: {line}")
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            process.terminate()
    return ready_s, next(int(row.split()[1]) << 10 for row in status.splitlines() if row.startswith("VmRSS"))


def measure(name: str, policy: str, folder: Path, repeats: int) -> dict[str, Any]:
    """All engines by turns, so that a machine that becomes slower does so for all."""
    export(named_architecture(name, DEVICES, policy), folder)
    shard = folder / "device0"
    passes: dict[str, list[float]] = {engine: [] for engine in engine_names()}
    for _ in range(repeats):
        for engine, found in passes.items():
            found.append(pass_seconds(shard, engine))
    row: dict[str, Any] = {
        "network": name,
        "policy": policy,
        "weights_bytes": (shard / "weights.safetensors").stat().st_size,
    }
    for engine, found in passes.items():
        facts = [worker_facts(shard, engine) for _ in range(repeats)]
        row |= {
            f"{engine}_pass_s": median(found),
            f"{engine}_ready_s": median(ready_s for ready_s, _ in facts),
            f"{engine}_rss_bytes": max(rss_bytes for _, rss_bytes in facts),
        }
    print(row, flush=True)
    return row


def accuracy_row(run: Path, name: str | None, folder: Path) -> dict[str, Any]:
    """What a trained network answers in fp32 and with the int8 graphs of an export, on its validation images."""
    data = RunImages.load(run, name, None)
    api.export(run, folder, engines=("onnxruntime",), int8=data)
    network = load_network(run)
    exact, rounded = (data.accuracy(network, folder, engine=engine) for engine in (None, "onnxruntime-int8"))
    row = {"run": run.name, "images": len(data.images.val), "fp32": exact, "int8": rounded}
    print(row, flush=True)
    return row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trained", type=Path, nargs="*", default=[], help="runs of sepnas train, for int8's accuracy")
    parser.add_argument("--data", default=None, help="their data set, where it is not that of their data.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    with Recorder(HERE / "result.json", seeds=(0,), root=HERE) as record, tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, policy, Path(folder) / f"{name}-{policy}", chosen.repeats)
            for name in chosen.networks
            for policy in POLICIES
        ]
        speedups = [row["torch_pass_s"] / row["onnxruntime_pass_s"] for row in rows]
        record.measure(
            "speedup_onnxruntime_over_torch", fmean(speedups), "", min(speedups), max(speedups), len(rows), "> 1"
        )
        gains = [row["onnxruntime_pass_s"] / row["onnxruntime-int8_pass_s"] for row in rows]
        record.measure("speedup_int8_over_onnxruntime", fmean(gains), "", min(gains), max(gains), len(rows), "> 1")
        accuracies = [
            accuracy_row(run, chosen.data, Path(folder) / f"trained{k}") for k, run in enumerate(chosen.trained)
        ]
        if accuracies:
            lost = [100 * (row["fp32"] - row["int8"]) for row in accuracies]
            record.measure("int8_accuracy_points_lost", fmean(lost), "", min(lost), max(lost), len(lost), "< 0.5")
            record.table("int8_accuracy", accuracies)
        for engine in engine_names():
            light = engines()[engine].light
            ready_s = [row[f"{engine}_ready_s"] for row in rows]
            beyond = [row[f"{engine}_rss_bytes"] - row["weights_bytes"] for row in rows]
            record.measure(
                f"worker_ready_s_{engine}", fmean(ready_s), "s", min(ready_s), max(ready_s), len(rows),
                "< 1.5" if light else None,
            )  # fmt: skip
            record.measure(
                f"worker_rss_bytes_{engine}_beyond_weights", fmean(beyond), "B", min(beyond), max(beyond), len(rows),
                "< 120000000" if light else None,
            )  # fmt: skip
        for name, key, unit in (("worker_ready_s", "ready_s", "s"), ("worker_rss_bytes", "rss_bytes", "B")):
            found = [row[f"onnxruntime_{key}"] for row in rows]
            record.measure(name, fmean(found), unit, min(found), max(found), len(found))
        record.table("engines", rows)
        for each in record.measures.values():
            print(f"{each.name}: {each.value:.4g} ({each.low:.4g} to {each.high:.4g})")


if __name__ == "__main__":
    main()
