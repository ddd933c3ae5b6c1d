"""Each switch of the recipe by itself, on validation images: which of them help in so few epochs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cells import HERE, RECIPE, Cell
from children import parser_of, run_children, threads_of

from sepnas.report.recorder import Recorder
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.recipe import Recipe
from sepnas.train.record import read_history

NETWORK = "hand-made"
TEACHER = "not-separable"
SWITCHES: dict[str, dict[str, Any]] = {
    "base": {},
    "learning-rate-0.25": {"learning_rate": 0.25},
    "learning-rate-1": {"learning_rate": 1.0},
    "batch-64": {"batch_size": 64, "learning_rate": 0.25},
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
    parser = parser_of(__doc__, Path("runs/cifar100-cpu/ablation"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def cell_of(name: str, chosen: argparse.Namespace) -> Cell:
    """The training of a switch, or that of the teacher."""
    base = Recipe.load(RECIPE).to_data() | {"epochs": chosen.epochs}
    recipe = Recipe.from_data(base | SWITCHES.get(name, {}), name)
    return Cell(chosen.out / name, TEACHER if name == TEACHER else NETWORK, "fp32", chosen.seed, recipe)


def train_one(name: str, chosen: argparse.Namespace) -> None:
    cell, data = cell_of(name, chosen), load_dataset(chosen.data, root=chosen.data_root)
    teachers = [load_network(cell_of(TEACHER, chosen).run)] if cell.recipe.distillation else []
    cell.train(data, chosen.device, threads_of(chosen), teachers)


def main() -> None:
    chosen = arguments()
    if chosen.child:
        train_one(chosen.child, chosen)
        return

    def last_accuracy(name: str) -> float:
        return read_history(cell_of(name, chosen).run)[-1].val_accuracy

    for names in ([TEACHER], list(SWITCHES)):
        run_children(names, chosen.jobs, lambda name: f"{last_accuracy(name):.2%}")
    with Recorder(HERE / "ablation.json", seeds=(chosen.seed,), root=HERE) as record:
        base = last_accuracy("base")
        rows = [
            {"switch": name, "val_accuracy": found, "gain_points": round(100 * (found - base), 2)}
            for name in SWITCHES
            for found in [last_accuracy(name)]
        ]
        record.measure("switches_that_help", sum(row["gain_points"] > 0 for row in rows))
        record.table("ablation", rows)


if __name__ == "__main__":
    main()
