"""One cell of the comparison: a strategy with a seed, explored over the one supernet in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from sepnas.nets.supernet import Supernet
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import plan_key
from sepnas.search.experiment import explore
from sepnas.search.explorer import Explorer, StrategyName
from sepnas.search.folder import archive_of
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.run import supernet_recipe
from sepnas.search.scalarised import make_strategy
from sepnas.search.screen import Screen, reference_costs
from sepnas.search.strategies import make_proposer
from sepnas.separable.build import build_plan
from sepnas.separable.space import Genotype, SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData, Split, channel_statistics
from sepnas.train.loop import train_network
from sepnas.train.recipe import Recipe, RecipeChanges
from sepnas.train.supernet import SandwichStep

SPACE = SearchSpace.load(Path(__file__).parent / "space.yaml")
CLUSTER = uniform_cluster(SPACE.num_devices)
WORST = reference_costs(SPACE, CLUSTER, seed=0)
"""What all hypervolumes are measured from, and what NNI's strategies see costs as shares of: the largest policy."""
SUPERNET_EPOCHS, SUPERNET_SEED = 200, 0
NOISE = 0.3
"""Standard deviation of what is added to every pixel, once, as a share of its range; without it none must exchange."""


def load_data() -> ImageData:
    """The digits with noise in the images to train and to validate with; the test images are not touched."""
    data = load_dataset("digits")
    generator = torch.Generator().manual_seed(0)

    def noisy(split: Split) -> Split:
        noise = 255 * NOISE * torch.randn(split.images.shape, generator=generator)
        return replace(split, images=(split.images + noise).round().clamp(0, 255).byte())

    train, val = noisy(data.train), noisy(data.val)
    mean, std = channel_statistics(train.images)
    return replace(data, train=train, val=val, mean=mean, std=std)


def recipe_for(data: ImageData, epochs: int) -> Recipe:
    """A search's own with smaller steps, for many times the epochs that a search has."""
    return supernet_recipe(data, None, RecipeChanges(epochs)).model_copy(update={"learning_rate": 0.2})


@cache
def make_evaluator(folder: Path) -> AccuracyEvaluator:
    """The evaluator over the supernet of the whole comparison, trained first where the folder has none yet."""
    torch.set_num_threads(1)
    data = load_data()
    torch.manual_seed(SUPERNET_SEED)
    supernet = Supernet(SPACE)
    recipe = recipe_for(data, SUPERNET_EPOCHS)
    step = SandwichStep(SPACE)
    train_network(
        supernet, data, recipe, folder, seed=SUPERNET_SEED, resume=True, device="cpu", progress=False, step=step
    )
    return AccuracyEvaluator(supernet, data, SUPERNET_SEED, torch.device("cpu"))


def explore_cell(runs: Path, strategy: StrategyName, seed: int, evaluations: int) -> list[Candidate]:
    """The candidates of one strategy and seed, in order; what its folder holds already is not evaluated again."""
    folder = runs / f"{strategy}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    proposer = make_proposer(strategy, PolicyProblem(Screen(SPACE, CLUSTER), seed), seed)
    explorer = Explorer(
        proposer, archive_of(folder, SPACE), SPACE.objectives, evaluations, lambda candidate, fresh: None
    )
    explore(SPACE.choices(), make_strategy(strategy, seed, explorer, WORST), _accuracy(runs))
    return explorer.candidates


def _accuracy(runs: Path) -> Callable[[Genotype], dict[str, float]]:
    """The accuracy of a genotype, looked up where any cell has evaluated the same plan."""
    archives = [archive_of(path.parent, SPACE) for path in runs.glob("*/candidates.jsonl")]
    known = {c.key: c.objectives["accuracy"] for archive in archives for c in archive.candidates()}
    evaluator = make_evaluator(runs / "supernet")

    def accuracies(genotype: Genotype) -> dict[str, float]:
        architecture = SPACE.architecture_of(genotype)
        key = plan_key(build_plan(architecture))
        return {"accuracy": known[key] if key in known else evaluator.accuracy(architecture)}

    return accuracies
