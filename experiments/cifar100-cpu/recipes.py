"""The paper's recipe, SGD's and the table's, each in as many epochs as the table has, on validation images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cells import HERE, RECIPE, Cell
from children import command_of, parser_of, run_children, run_main, threads_of
from trials import keep, kept_of

from sepnas.results.recorder import Recorder
from sepnas.train.data import load_dataset
from sepnas.train.recipe import RECIPES, Recipe

KEPT = HERE / "recipes"
NETWORKS = ("not-separable", "hand-made")
COMPARED = ("paper", "cifar-sgd", "cifar-muon", "table")
SEED = 0


def arguments() -> argparse.Namespace:
    return parser_of(__doc__, Path("runs/cifar100-cpu/recipes")).parse_args()


def recipe_of(name: str) -> Recipe:
    """A named recipe in the table's epochs and precision; the milestones of its schedule move with them."""
    table = Recipe.load(RECIPE)
    if name == "table":
        return table
    named = RECIPES[name]
    milestones = tuple(round(each * table.epochs / named.epochs) for each in named.milestones)
    layout = {"precision": table.precision, "channels_last": table.channels_last}
    return named.model_copy(update={"epochs": table.epochs, "milestones": milestones, **layout})


def cell_of(name: str, chosen: argparse.Namespace) -> Cell:
    recipe, network = name.split("+")
    return Cell(chosen.out / name, network, "fp32", SEED, recipe_of(recipe))


def found_of(name: str, chosen: argparse.Namespace) -> dict[str, Any] | None:
    """What was found of a recipe on a network; of the table's own the table knows it."""
    cell = cell_of(name, chosen)
    return cell.found() if name.startswith("table+") else kept_of(KEPT / f"{name}.json", cell.recipe)


def train_one(name: str, chosen: argparse.Namespace) -> None:
    cell, data = cell_of(name, chosen), load_dataset(chosen.data, root=chosen.data_root)
    keep(KEPT / f"{name}.json", cell.recipe, cell.train(data, chosen.device, threads_of(chosen)))


def record(chosen: argparse.Namespace) -> None:
    """The last epoch of each recipe, a row for each network."""
    rows: list[dict[str, Any]] = []
    for network in NETWORKS:
        found = {recipe: found_of(f"{recipe}+{network}", chosen) for recipe in COMPARED}
        rows.append({"network": network} | {name: each["val_by_epoch"][-1] for name, each in found.items() if each})
    gains = [100 * (row["table"] - row["paper"]) for row in rows if {"table", "paper"} <= set(row)]
    if gains:
        with Recorder(HERE / "recipes.json", command_of(), seeds=(SEED,), root=HERE) as record:
            least = min(gains)
            record.measure("gain_over_paper_recipe_points", least, "", least, max(gains), len(gains), goal="> 0")
            record.table("recipes", rows)
        print(HERE / "recipes.json")


def main() -> None:
    chosen = arguments()
    if chosen.child:
        train_one(chosen.child, chosen)
        return
    names = [f"{recipe}+{network}" for recipe in COMPARED if recipe != "table" for network in NETWORKS]
    missing = [name for name in names if not found_of(name, chosen)]
    try:
        run_children(missing, chosen.jobs, lambda name: (found_of(name, chosen) or {})["val_by_epoch"])
    finally:
        record(chosen)


if __name__ == "__main__":
    run_main(main)
