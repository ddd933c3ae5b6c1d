"""The paper's networks on CIFAR-100 at full size: trains the next missing runs until the time is up."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.plan.build import build_plan
from sepnas.report.recorder import Recorder
from sepnas.spec.architecture import Architecture, named_architecture
from sepnas.spec.document import write_text
from sepnas.spec.policy import Readout
from sepnas.spec.wire import WireFormat
from sepnas.train.checkpoint import BEST, load_network, tensors_sha256
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.loop import train_network
from sepnas.train.recipe import Recipe, load_recipe
from sepnas.train.record import best_of
from sepnas.train.start import first_network

HERE = Path(__file__).resolve().parent
FINE_EPOCHS, FINE_RATE = 5, 0.02
WIRES: tuple[WireFormat, ...] = ("fp32", "int8", "int4")
"""What a trained network goes on with; fp32 is what the others are held against, so that none has seen more images."""


@dataclass(frozen=True)
class Run:
    """One training; ``start``: the run whose network it goes on from."""

    name: str
    architecture: Architecture
    start: Run | None = None


def runs_of(network: str, devices: int, searched: Path) -> Iterator[Run]:
    """In the order of worth; first what the others are held against."""

    def named(policy: str, count: int = devices) -> Architecture:
        return named_architecture(network, count, policy, num_classes=100)

    def with_mean(architecture: Architecture) -> Architecture:
        return architecture.with_policy(architecture.policy.model_copy(update={"readout": Readout(kind="mean")}))

    yield Run("not-separable", named("none", 1))
    hand_made = Run("hand-made-mean", with_mean(named("hand-made")))
    yield hand_made
    yield Run("all-to-all", named("all-to-all"))
    yield from (_gone_on(hand_made, wire) for wire in WIRES)
    yield Run("hand-made", named("hand-made"))
    yield Run("no-exchange-mean", with_mean(named("none")))
    for path in sorted(searched.glob("*.json")):
        yield Run(path.stem, Architecture.load(path))


def _gone_on(run: Run, wire: WireFormat) -> Run:
    policy = run.architecture.policy.written_in(wire, "learned")
    return Run(f"{run.name}-{wire}", run.architecture.with_policy(policy), run)


def train(run: Run, recipe: Recipe, data: ImageData, chosen: argparse.Namespace, left_s: float) -> bool:
    """From its last checkpoint, as far as the time reaches; whether it has come to its end."""
    start = load_network(folder_of(run.start, chosen)) if run.start else None
    if start:
        values = {"epochs": min(FINE_EPOCHS, recipe.epochs), "learning_rate": FINE_RATE, "name": f"{recipe.name}-fine"}
        recipe = Recipe.from_data(recipe.to_data() | values, recipe.name)
    out = folder_of(run, chosen)
    result = train_network(
        first_network(run.architecture, data, chosen.seed, start), data, recipe, out, seed=chosen.seed, resume=True,
        device=chosen.device, stop_after_s=left_s, start=tensors_sha256(start.state_dict()) if start else "",
    )  # fmt: skip
    if result.finished:
        best = best_of(result.history)
        note = {
            "val_accuracy": best.val_accuracy,
            "test_accuracy": accuracy(load_network(out), data.test, data),
            "best_epoch": best.epoch,
            "val_by_epoch": [each.val_accuracy for each in result.history],
            "images_per_s": result.images_per_s,
            "seconds": result.duration_s,
            "recipe": recipe.to_data(),
            "payload_bytes": build_plan(run.architecture).payload_bytes(),
        }
        found_file(run, chosen).parent.mkdir(parents=True, exist_ok=True)
        write_text(found_file(run, chosen), json.dumps(note, indent=2) + "\n")
    return result.finished


def folder_of(run: Run, chosen: argparse.Namespace) -> Path:
    return chosen.out / f"{chosen.network}-{chosen.recipe}-{run.name}-s{chosen.seed}"


def found_file(run: Run, chosen: argparse.Namespace) -> Path:
    return chosen.found / f"{chosen.network}-{chosen.recipe}" / f"{run.name}-s{chosen.seed}.json"


def is_finished(run: Run, chosen: argparse.Namespace) -> bool:
    """With its checkpoint still there, for others to go on from."""
    return found_file(run, chosen).exists() and (folder_of(run, chosen) / BEST).exists()


def record(chosen: argparse.Namespace) -> None:
    """Every run that was found, of all networks and recipes, as one table."""
    rows: list[dict[str, Any]] = []
    for path in sorted(chosen.found.glob("*/*.json")):
        found = json.loads(path.read_text())
        policy, _, seed = path.stem.rpartition("-s")
        rows.append({"network": path.parent.name, "policy": policy, "seed": int(seed),
                     **{key: value for key, value in found.items() if not isinstance(value, list | dict)}})  # fmt: skip
    with Recorder(chosen.found.parent / "result.json", seeds=tuple(sorted({row["seed"] for row in rows}))) as record:
        for network, policy in dict.fromkeys((row["network"], row["policy"]) for row in rows):
            top1 = [100 * row["test_accuracy"] for row in rows if (row["network"], row["policy"]) == (network, policy)]
            name = f"top1_{network}_{policy}".replace("-", "_")
            record.measure(name, sum(top1) / len(top1), "%", min(top1), max(top1), len(top1))
        record.table("runs", rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnext56_4x16d", help="such as resnext56_64x4d, resnext29_8x16d")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--recipe", default="modern", help="modern, paper, or cifar-fast for a trial")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=None, help="these runs; --list names them")
    parser.add_argument("--stop-after-s", type=float, default=540.0)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100-full"))
    parser.add_argument("--found", type=Path, default=HERE / "found", help="what was found; result.json beside it")
    parser.add_argument("--searched", type=Path, default=HERE / "searched", help="architectures that a search found")
    parser.add_argument("--list", action="store_true", help="say which runs there are, and what each sends")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    until = time.monotonic() + chosen.stop_after_s
    every = list(runs_of(chosen.network, chosen.devices, chosen.searched))
    if chosen.list:
        for run in every:
            done = "done" if found_file(run, chosen).exists() else "missing"
            print(f"{run.name}: {done}, {build_plan(run.architecture).payload_bytes():,} bytes")
        return
    recipe = load_recipe(chosen.recipe).changed(chosen.recipe, epochs=chosen.epochs)
    data = load_dataset(chosen.data, root=chosen.data_root)
    for run in every:
        if found_file(run, chosen).exists() or (chosen.only and run.name not in chosen.only):
            continue
        if run.start and not (
            found_file(run.start, chosen).exists() and (folder_of(run.start, chosen) / BEST).exists()
        ):
            print(f"{run.name}: needs the checkpoint of {run.start.name}, finished; train that first")
            continue
        left_s = until - time.monotonic()
        if left_s > 0:
            print(run.name, flush=True)
        if left_s <= 0 or not train(run, recipe, data, chosen, left_s):
            print(f"{run.name}: the time is up; the same command goes on")
            return
        record(chosen)


if __name__ == "__main__":
    main()
