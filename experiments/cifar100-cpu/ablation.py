"""Each switch of the recipe by itself, on validation images: which of them help in so few epochs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cells import HERE, Cell
from run import RECIPE

from sepnas.report.recorder import Recorder
from sepnas.train.checkpoint import load_network, new_network
from sepnas.train.data import load_dataset
from sepnas.train.loop import train_network
from sepnas.train.recipe import Recipe
from sepnas.train.record import read_history
from sepnas.train.threads import use_threads_for

NETWORK = "hand-made"
TEACHER = "not-separable"
SWITCHES: dict[str, dict[str, Any]] = {
    "base": {},
    "learning-rate-0.4": {"learning_rate": 0.4},
    "batch-64": {"batch_size": 64},
    "cosine": {"schedule": "cosine"},
    "no-label-smoothing": {"label_smoothing": 0.0},
    "no-decay-of-norms": {"decay_norms": False},
    "sgdw": {"optimizer": "sgdw", "weight_decay": 5e-3},
    "adamw": {"optimizer": "adamw", "learning_rate": 4e-3, "weight_decay": 0.05},
    "average": {"ema_decay": 0.998},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "autoaugment": {"augmentation": {"crop_padding": 4, "padding": "reflect", "flip": True, "autoaugment": "cifar10"}},
    "taught": {"distillation": {"weight": 0.7, "temperature": 2.0}},
    "taught-attention": {"distillation": {"weight": 0.7, "temperature": 2.0, "features": 10.0}},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100-cpu/ablation"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, each with one thread")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--only", choices=[TEACHER, *SWITCHES], default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def train_one(name: str, chosen: argparse.Namespace) -> None:
    base = Recipe.load(RECIPE).to_data() | {"epochs": chosen.epochs}
    recipe = Recipe.from_data(base | SWITCHES.get(name, {}), name)
    cell = Cell(chosen.out, TEACHER if name == TEACHER else NETWORK, "fp32", chosen.seed, recipe)
    use_threads_for(cell.architecture, 1 if chosen.jobs > 1 else None)
    data = load_dataset(chosen.data, root=chosen.data_root)
    teachers = [load_network(chosen.out / TEACHER)] if recipe.distillation else []
    train_network(
        new_network(cell.architecture, chosen.seed), data, recipe, chosen.out / name, seed=chosen.seed, resume=True,
        device=chosen.device, progress=False, teachers=teachers,
    )  # fmt: skip


def main() -> None:
    chosen = arguments()
    if chosen.only:
        train_one(chosen.only, chosen)
        return

    def start(name: str) -> None:
        subprocess.run([sys.executable, *sys.argv, "--only", name], check=True)
        print(f"{name}: {read_history(chosen.out / name)[-1].val_accuracy:.2%}", flush=True)

    start(TEACHER)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(start, SWITCHES))
    with Recorder(HERE / "ablation.json", seeds=(chosen.seed,), root=HERE) as record:
        base = read_history(chosen.out / "base")[-1].val_accuracy
        rows = []
        for name in SWITCHES:
            last = read_history(chosen.out / name)[-1]
            gain = 100 * (last.val_accuracy - base)
            rows.append({"switch": name, "val_accuracy": last.val_accuracy, "gain_points": round(gain, 2)})
        record.measure("switches_that_help", sum(row["gain_points"] > 0 for row in rows))
        record.table("ablation", rows)


if __name__ == "__main__":
    main()
