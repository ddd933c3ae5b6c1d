"""The parts of a separated network, trained from random weights in the time that the walk from trained ones takes.

That time is the fine-tuning of the whole network and the training of the separated one. The whole network's answers
teach the parts here too. The recipe is chosen on validation images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from ablation import CELL
from run import HERE, Experiment, experiment_of, parser_of, run_main
from torch import Tensor, nn

from sepnas.nets.trainable import STATISTICS, norms_of, trained_weights
from sepnas.partition.graph import Graph
from sepnas.results.recorder import Recorder
from sepnas.train.recipe import RECIPES, Recipe
from sepnas.train.tuning import prepare_tuning

EPOCHS = 6
"""Of the parts: their epoch takes a third longer than one of the whole network, of which there were five, and two of
the parts."""
DISTILLATION = {"weight": 0.9, "temperature": 2.0}
CROP = {"crop_area": 0.5, "flip": True, "alternate_flips": True}
CHANGES: dict[str, dict[str, Any]] = {"large-images": {}, "cifar-fast": {"batch_size": 64}}
"""Recipes for networks without trained weights, and what suits few images; imported networks cannot have Muon."""


def random_weights(graph: Graph, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Those of a network that was never trained: He's normal ones (arXiv 1502.01852), norms that change nothing."""
    generator = torch.Generator().manual_seed(seed)
    ones = {node.inputs[role] for node in norms_of(graph) for role in ("weight", "running_var") if role in node.inputs}
    changing = {*trained_weights(graph), *(node.inputs[role] for node in norms_of(graph) for role in STATISTICS)}
    made = {}
    for name, x in weights.items():
        if name not in changing:
            made[name] = x
        elif x.dim() > 1:
            made[name] = nn.init.kaiming_normal_(torch.empty_like(x), nonlinearity="relu", generator=generator)
        else:
            made[name] = torch.full_like(x, float(name in ones))
    return made


def recipe_of(name: str, epochs: int) -> Recipe:
    changes = {"epochs": epochs, "distillation": DISTILLATION, "augmentation": CROP}
    return Recipe.from_data(RECIPES[name].to_data() | changes | CHANGES[name], name)


def trained(experiment: Experiment, name: str, epochs: int) -> dict[str, Any]:
    """Train the cell's parts from random weights with a recipe, or go on."""
    run, start = experiment.out / f"scratch-{name}-{epochs}-epochs-seed-{CELL.seed}", experiment.separated(CELL)
    experiment.share_answers(run, CELL.seed)
    training = prepare_tuning(
        start, experiment.images, recipe=recipe_of(name, epochs), teachers=(experiment.reference(CELL.seed),)
    )
    training = replace(training, weights=random_weights(training.graph, training.weights, CELL.seed))
    result = training.run(run, seed=CELL.seed, resume=True, threads=experiment.threads)
    return {
        "recipe": name, "epochs": epochs, "val": result.best_accuracy,
        "val_by_epoch": [each.val_accuracy for each in result.history],
        "seconds": round(sum(each.duration_s for each in result.history), 1), "run": run,
    }  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="of the parts, in the time of the walk [%(default)s]"
    )
    chosen = parser.parse_args()
    experiment = experiment_of(chosen)
    rows = []
    for name in CHANGES:
        rows.append(trained(experiment, name, chosen.epochs))
        print(f"{name}: validation {rows[-1]['val']:.2%}", flush=True)
    best = max(rows, key=lambda each: float(each["val"]))
    walked, reference = experiment.found_cell(CELL), experiment.found(experiment.reference_name(CELL.seed)) or {}
    with Recorder(experiment.home / "scratch.json", seeds=(CELL.seed,), root=HERE) as record:
        record.measure("top1_from_scratch", experiment.test(best["run"]), n=1)
        record.measure("seconds_from_scratch", best["seconds"], "s", n=1)
        if walked:
            record.measure("top1_separated", walked["test_accuracy"], n=1)
        if walked and "duration_s" in reference:
            record.measure("seconds_separated", walked["duration_s"] + reference["duration_s"], "s", n=1)
        record.table("recipes", [{key: value for key, value in row.items() if key != "run"} for row in rows])


if __name__ == "__main__":
    run_main(main)
