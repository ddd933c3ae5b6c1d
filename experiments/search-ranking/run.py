"""Does the supernet rank architectures as training each of them by itself does?"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import numpy
import torch
from scipy.stats import kendalltau, spearmanr
from torch import nn
from torch.nn import functional

from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.supernet import Supernet
from sepnas.results.recorder import Recorder
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.canonical import plan_key
from sepnas.search.run import supernet_recipe
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData, channel_statistics
from sepnas.train.loop import pick_device, train_network
from sepnas.train.recipe import RECIPES, Augmentation, Recipe, RecipeChanges
from sepnas.train.steps import Step
from sepnas.train.supernet import SandwichStep

HERE = Path(__file__).resolve().parent
SAMPLES = 4000
GOAL = ">= 0.7"


@dataclass(frozen=True)
class Setting:
    """What is compared on one data set: ``recipe`` trains a network by itself, ``images`` are to train and validate.

    They are of the first classes, as many as the space has. Every network is trained for so long that its accuracy no
    longer tells how fast it learns: with fewer classes that is soon. ``draw`` is the seed of the architectures; the
    setting was chosen with those of lower ones. ``seeds`` are those of the supernets, ``alone_seeds`` of the
    networks by themselves. ``noise`` is the standard deviation of what is added to every pixel, once, as a share of
    its range.
    """

    space: Path
    recipe: Recipe
    supernet_epochs: int
    images: tuple[int, int]
    draw: int
    seeds: tuple[int, ...]
    alone_seeds: tuple[int, ...]
    noise: float = 0.0
    supernet_steps: dict[str, float] = field(default_factory=dict)

    def supernet_recipe(self, data: ImageData) -> Recipe:
        """A search's own, with the augmentation that the networks by themselves get and, over more epochs than a search
        has, with their smaller steps."""
        own = supernet_recipe(data, None, RecipeChanges(self.supernet_epochs))
        return own.model_copy(update={"augmentation": self.recipe.augmentation, **self.supernet_steps})

    def fingerprint(self) -> str:
        """Names the folder: what was trained in another setting is not taken for this one's."""
        facts = [self.space.read_text(), self.recipe.to_data(), self.images, self.noise]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


DIGITS = Setting(
    HERE / "digits.yaml",
    RECIPES["digits"].model_copy(update={"epochs": 80, "batch_size": 64}),
    supernet_epochs=250,
    images=(719, 719),
    draw=1,
    seeds=(0, 1, 2),
    alone_seeds=(0, 1, 2),
    supernet_steps={"learning_rate": 0.2},
)

SETTINGS = {
    "digits": DIGITS,
    "digits-noisy": replace(DIGITS, noise=0.3, draw=3),
    "cifar100": Setting(
        HERE / "cifar100.yaml",
        RECIPES["cifar-sgd"].model_copy(
            update={"epochs": 15, "augmentation": Augmentation(crop_padding=2, padding="reflect", flip=True)}
        ),
        supernet_epochs=60,
        images=(8000, 2000),
        draw=2,
        seeds=(0, 1, 2),
        alone_seeds=(0, 1, 2),
        supernet_steps={"learning_rate": 0.2, "weight_decay": 5e-4, "batch_size": 128},
    ),
}


@dataclass(frozen=True)
class Chosen:
    """An architecture of the comparison, its plan's key and bytes."""

    key: str
    payload_bytes: int
    architecture: Architecture


def spread_architectures(space: SearchSpace, count: int, seed: int) -> list[Chosen]:
    """Distinct architectures at even steps of the logarithm of their bytes, from the 1st percentile to the largest."""
    draw = random.Random(seed).randrange
    genotypes = [space.largest(), *(space.sample_spread(draw) for _ in range(SAMPLES))]
    found: dict[str, Chosen] = {}
    for genotype in genotypes:
        architecture = space.architecture_of(genotype)
        plan = build_plan(architecture)
        if plan.payload_bytes():
            found.setdefault(plan_key(plan), Chosen(plan_key(plan), plan.payload_bytes(), architecture))
    left = list(found.values())
    low, high = numpy.percentile([chosen.payload_bytes for chosen in left], (1, 100))
    picked = []
    for target in numpy.geomspace(low, high, count):
        nearest = min(left, key=lambda chosen: abs(log(chosen.payload_bytes / target)))
        left.remove(nearest)
        picked.append(nearest)
    return picked


def redrawn(
    data: ImageData, train_images: int, val_images: int, side: int, num_classes: int, noise: float
) -> ImageData:
    """Training and validation images of the first classes, drawn anew from both and averaged down to ``side`` pixels.

    To each pixel Gaussian ``noise`` is added, a share of its range. The test images are left where they are.
    """
    images, labels = (
        torch.cat([getattr(split, name) for split in (data.train, data.val)]) for name in ("images", "labels")
    )
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order] < num_classes][: train_images + val_images]
    small = functional.adaptive_avg_pool2d(images[order].float(), side)
    small = (small + 255 * noise * torch.randn(small.shape, generator=generator)).round().clamp(0, 255).byte()
    whole = replace(data.train, images=small, labels=labels[order])
    train = whole.take(torch.arange(train_images))
    mean, std = channel_statistics(train.images)
    val = whole.take(torch.arange(train_images, len(order)))
    return replace(data, train=train, val=val, mean=mean, std=std, classes=data.classes[:num_classes])


class Cells:
    """One line for each accuracy that was measured: what is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.found = {(line["key"], line["how"], line["seed"]): float(line["accuracy"]) for line in lines}

    def get(self, key: str, how: str, seed: int, measure: Callable[[], float]) -> float:
        """The accuracy that is kept, or ``measure()``."""
        if (key, how, seed) not in self.found:
            started = time.perf_counter()
            accuracy = measure()
            line = {"key": key, "how": how, "seed": seed, "accuracy": accuracy}
            with self.path.open("a") as file:
                file.write(json.dumps({**line, "duration_s": round(time.perf_counter() - started, 2)}) + "\n")
            self.found[key, how, seed] = accuracy
        return self.found[key, how, seed]


class Ranking:
    """The comparison on one data set, kept in ``folder``."""

    def __init__(self, setting: Setting, data: ImageData, folder: Path, device: str, deadline: float) -> None:
        self.setting, self.folder, self.device, self.deadline = setting, folder, device, deadline
        self.space = SearchSpace.load(setting.space)
        network = self.space.network
        self.data = redrawn(data, *setting.images, network.image_size, network.num_classes, setting.noise)
        self.supernet_name = f"supernet-{setting.supernet_epochs}-epochs"
        self.cells = Cells(folder / "cells.jsonl")
        self.evaluator = lru_cache(maxsize=1)(self._make_evaluator)

    def rows(self, chosen: Sequence[Chosen], seeds: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
        """For each architecture its bytes, and its accuracy in a supernet and by itself, each for its seeds."""
        rows = []
        found = {
            (how, seed): [self.cells.get(one.key, kept, seed, partial(measure, one, seed)) for one in chosen]
            for how, kept, measure in (("supernet", self.supernet_name, self.shared), ("alone", "alone", self.alone))
            for seed in seeds[how]
        }
        for index, one in enumerate(chosen):
            policy = one.architecture.policy
            rows.append(
                {
                    "payload_bytes": one.payload_bytes,
                    "depth": one.architecture.depth,
                    "bottleneck_channels": str([part.bottleneck_channels(0) for part in one.architecture.parts]),
                    "transfers": sum(len(point.transfers) for point in policy.points),
                    "readout": policy.readout.kind,
                    **{f"{how}_{seed}": accuracies[index] for (how, seed), accuracies in found.items()},
                }
            )
        return rows

    def shared(self, chosen: Chosen, seed: int) -> float:
        """Accuracy over the weights of the supernet of this seed, as a search would evaluate it."""
        return self.evaluator(seed).accuracy(chosen.architecture)

    def alone(self, chosen: Chosen, seed: int) -> float:
        """Accuracy of the architecture trained by itself, after its last epoch."""
        torch.manual_seed(seed)
        network = SeparableNetwork(chosen.architecture)
        self._train(network, self.setting.recipe, self.folder / f"{chosen.key}-{seed}", seed)
        return accuracy(network, self.data.val, self.data)

    def _make_evaluator(self, seed: int) -> AccuracyEvaluator:
        torch.manual_seed(seed)
        supernet = Supernet(self.space)
        self._train(
            supernet,
            self.setting.supernet_recipe(self.data),
            self.folder / f"{self.supernet_name}-{seed}",
            seed,
            SandwichStep(self.space),
        )
        return AccuracyEvaluator(supernet, self.data, seed, pick_device(self.device))

    def _train(self, network: nn.Module, recipe: Recipe, folder: Path, seed: int, step: Step | None = None) -> None:
        """Train to the end, or leave the program when the time is up: the same command goes on."""
        left_s = self.deadline - time.monotonic()
        if left_s > 0:
            result = train_network(
                network, self.data, recipe, folder, seed=seed, resume=True, device=self.device, progress=False,
                stop_after_s=left_s, step=step,
            )  # fmt: skip
        if left_s <= 0 or not result.finished:
            raise SystemExit(f"time is up: {len(self.cells.found)} accuracies are kept in {self.folder}; run it again")
        print(f"{folder}: trained, {len(self.cells.found)} accuracies measured before it", flush=True)


def record_ranking(record: Recorder, name: str, rows: list[dict[str, Any]], seeds: Mapping[str, Sequence[int]]) -> None:
    """Each seed's supernet against the mean of all networks trained by themselves; low and high over supernets."""
    columns = {how: [[row[f"{how}_{seed}"] for row in rows] for seed in some] for how, some in seeds.items()}
    truth = numpy.mean(columns["alone"], axis=0)
    for measure, correlation in (("kendall_tau", kendalltau), ("spearman", spearmanr)):
        found = [float(correlation(accuracies, truth).statistic) for accuracies in columns["supernet"]]
        goal = GOAL if measure == "kendall_tau" else None
        record.measure(
            f"{measure}_{name}", float(numpy.mean(found)), "", min(found), max(found), len(rows), goal
        )  # fmt: skip
        # The ceiling: how well does training each network by itself repeat the ranking?
        others = [
            numpy.mean(numpy.delete(columns["alone"], place, axis=0), axis=0) for place in range(len(columns["alone"]))
        ]
        again = [float(correlation(one, rest).statistic) for one, rest in zip(columns["alone"], others, strict=True)]
        record.measure(
            f"{measure}_{name}_of_another_seed", float(numpy.mean(again)), "", min(again), max(again), len(rows)
        )
    right = [right_pairs(accuracies, truth, rows) for accuracies in columns["supernet"]]
    share, least, most = float(numpy.mean(right)), min(right), max(right)
    record.measure(f"right_pairs_of_one_network_{name}", share, "", least, most, len(rows))
    record.table(name, rows)


def right_pairs(found: Sequence[float], truth: Sequence[float], rows: Sequence[dict[str, Any]]) -> float:
    """Of the pairs that differ in their policy alone, the share that stands in the true order."""
    networks = [(row["depth"], row["bottleneck_channels"]) for row in rows]
    signs = [
        (found[a] - found[b]) * (truth[a] - truth[b])
        for a, b in combinations(range(len(rows)), 2)
        if networks[a] == networks[b]
    ]
    return sum(sign > 0 for sign in signs) / sum(sign != 0 for sign in signs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--data", default="folder:data/cifar100", help="CIFAR-100: cifar100 (torchvision), folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=Path("runs/search-ranking"))
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--draw", type=int, default=None, help="seed of the architectures [the set's own]")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="of the supernets [the set's own]")
    parser.add_argument(
        "--alone-seeds", type=int, nargs="+", default=None, help="of networks by themselves [the set's own]"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="more only where the cores are idle")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"))
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    deadline = time.monotonic() + chosen.stop_after_s
    every_seed = sorted({seed for name in chosen.sets for seed in chosen.seeds or SETTINGS[name].seeds})
    with Recorder(HERE / "result.json", seeds=every_seed, root=HERE) as record:
        for name in chosen.sets:
            data = load_dataset("digits" if name.startswith("digits") else chosen.data, root=chosen.data_root)
            setting = SETTINGS[name]
            folder = chosen.out / f"{name}-{setting.fingerprint()}"
            ranking = Ranking(setting, data, folder, chosen.device, deadline)
            draw = setting.draw if chosen.draw is None else chosen.draw
            seeds = {"supernet": chosen.seeds or setting.seeds, "alone": chosen.alone_seeds or setting.alone_seeds}
            architectures = spread_architectures(ranking.space, chosen.architectures, draw)
            record_ranking(record, name, ranking.rows(architectures, seeds), seeds)
        for measure in record.measures.values():
            print(f"{measure.name}: {measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})")


if __name__ == "__main__":
    main()
