"""Each switch of the recipe by itself, on validation images: which of them help in so few epochs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cells import HERE, Cell
from children import command_of, parser_of, run_children, run_main, threads_of
from trials import keep, kept_of

from sepnas.results.recorder import Recorder
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.recipe import Recipe

KEPT, START, EPOCHS = HERE / "ablation", HERE / "start.yaml", 3
NETWORK = "hand-made"
TEACHERS = ("not-separable", "all-to-all")
ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 4e-3, "weight_decay": 0.05}
NO_DECAY: dict[str, Any] = {"decay_norms": False}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.08, "weight_decay": 0.05, "decay_norms": False}
WHITE: dict[str, Any] = {"whiten_stem": True}
BEST: dict[str, Any] = MUON | WHITE | {"learning_rate": 0.04}
FLIPS: dict[str, Any] = {
    "augmentation": {"crop_padding": 4, "padding": "reflect", "flip": True, "alternate_flips": True}
}
TAUGHT: dict[str, Any] = {"distillation": {"weight": 0.7, "temperature": 2.0}}
SWITCHES: dict[str, dict[str, Any]] = {
    "base": {},
    "learning-rate-0.25": {"learning_rate": 0.25},
    "learning-rate-1": {"learning_rate": 1.0},
    "batch-64": {"batch_size": 64, "learning_rate": 0.25},
    "cosine": {"schedule": "cosine"},
    "no-label-smoothing": {"label_smoothing": 0.0},
    "no-decay-of-norms": NO_DECAY,
    "sgdw": {"optimizer": "sgdw", "weight_decay": 5e-3},
    "adamw": ADAMW,
    "average": {"ema_decay": 0.998},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "autoaugment": {"augmentation": {"crop_padding": 4, "padding": "reflect", "flip": True, "autoaugment": "cifar10"}},
    "taught": TAUGHT,
    "taught-attention": {"distillation": {"weight": 0.7, "temperature": 2.0, "features": 10.0}},
    "taught-by-all-to-all": TAUGHT,
    "taught-by-both": TAUGHT,
    # those that helped most, together
    "adamw+no-decay-of-norms": ADAMW | NO_DECAY,
    "adamw+batch-64": ADAMW | {"batch_size": 64},
    "adamw+batch-64+no-decay-of-norms": ADAMW | NO_DECAY | {"batch_size": 64},
    "sgd+batch-64+no-decay-of-norms": NO_DECAY | {"batch_size": 64, "learning_rate": 0.25},
    # beside "adamw+no-decay-of-norms"
    "adamw+norm-rate-8": ADAMW | NO_DECAY | {"norm_rate": 8.0},
    "adamw+whitened-stem": ADAMW | NO_DECAY | WHITE,
    "muon": MUON,
    "muon+whitened-stem": MUON | WHITE,
    "muon-0.02+whitened-stem": MUON | WHITE | {"learning_rate": 0.02},
    "muon-0.04+whitened-stem": BEST,
    "muon-0.16+whitened-stem": MUON | WHITE | {"learning_rate": 0.16},
    # beside the best of these
    "muon-0.04+whitened-stem+alternating-flips": BEST | FLIPS,
    "muon-0.04+whitened-stem+average": BEST | {"ema_decay": 0.99},
    "muon-0.04+whitened-stem+norm-rate-8": BEST | {"norm_rate": 8.0},
    "muon-0.04+whitened-stem+first-size-0.75": BEST | {"first_size": 0.75},
    "muon-0.04+whitened-stem+batch-64": BEST | {"batch_size": 64},
}
TAUGHT_BY = {
    "taught": TEACHERS[:1],
    "taught-attention": TEACHERS[:1],
    "taught-by-all-to-all": TEACHERS[1:],
    "taught-by-both": TEACHERS,
}


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, Path("runs/cifar100-cpu/ablation"))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="others for a trial (with --kept)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=KEPT, help="what was found; ablation.json beside it")
    chosen = parser.parse_args()
    if (chosen.epochs, chosen.seed) != (EPOCHS, 0) and chosen.kept == KEPT:
        parser.error("--epochs and --seed are for trials: name another place for what they find, with --kept")
    return chosen


def cell_of(name: str, chosen: argparse.Namespace) -> Cell:
    """The training of a switch, or that of a teacher."""
    base = Recipe.load(START).to_data() | {"epochs": chosen.epochs}
    recipe = Recipe.from_data(base | SWITCHES.get(name, {}), name)
    return Cell(chosen.out / name, name if name in TEACHERS else NETWORK, "fp32", chosen.seed, recipe)


def found_of(name: str, chosen: argparse.Namespace) -> dict[str, Any] | None:
    """What was found of a switch, if it was by this recipe."""
    return kept_of(chosen.kept / f"{name}.json", cell_of(name, chosen).recipe)


def train_one(name: str, chosen: argparse.Namespace) -> None:
    cell, data = cell_of(name, chosen), load_dataset(chosen.data, root=chosen.data_root)
    teachers = [load_network(cell_of(teacher, chosen).run) for teacher in TAUGHT_BY.get(name, ())]
    history = cell.train(data, chosen.device, threads_of(chosen), teachers)
    keep(chosen.kept / f"{name}.json", cell.recipe, history)


def record(chosen: argparse.Namespace) -> None:
    """The last epoch of each switch that was found, beside that of the recipe as it stands."""
    last = {name: found["val_by_epoch"][-1] for name in SWITCHES if (found := found_of(name, chosen))}
    if "base" not in last:
        return
    rows = [
        {"switch": name, "val_accuracy": found, "gain_points": round(100 * (found - last["base"]), 2)}
        for name, found in last.items()
    ]
    path = chosen.kept.parent / "ablation.json"
    with Recorder(path, command_of(), seeds=(chosen.seed,), root=HERE) as record:
        record.measure("switches_that_help", sum(row["gain_points"] > 0 for row in rows), "", n=len(rows))
        record.table("ablation", rows)
    print(f"{len(rows)} of {len(SWITCHES)} switches; {path}")


def main() -> None:
    chosen = arguments()
    if chosen.child:
        train_one(chosen.child, chosen)
        return
    missing = [name for name in SWITCHES if not found_of(name, chosen)]
    first = list(dict.fromkeys(teacher for name in missing for teacher in TAUGHT_BY.get(name, ())))
    try:
        for names in (first, missing):
            run_children(names, chosen.jobs, lambda name: (found_of(name, chosen) or {})["val_by_epoch"])
    finally:
        record(chosen)


if __name__ == "__main__":
    run_main(main)
