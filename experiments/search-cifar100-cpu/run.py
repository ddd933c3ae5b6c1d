"""A search for real: which policies over 4 devices are worth their bytes on CIFAR-100, at CPU size."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from sepnas.results.recorder import Recorder
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import named_plan_key
from sepnas.search.folder import load_candidates
from sepnas.search.run import SearchResult, run_search
from sepnas.separable.architecture import Architecture
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData
from sepnas.train.recipe import RecipeChanges
from sepnas.train.threads import use_threads_for

HERE = Path(__file__).resolve().parent
SPACE = HERE.parent.parent / "search_spaces" / "cifar-small-full.yaml"
MARGIN = 0.003
"""Accuracy that a point may lose against all-to-all: 0.3 points."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=Path("runs/search-cifar100-cpu"))
    parser.add_argument("--candidates", type=int, default=80)
    parser.add_argument("--supernet-epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args()


def row(candidate: Candidate, baseline: Candidate) -> dict[str, Any]:
    costs = candidate.costs
    return {
        "candidate": candidate.index,
        "accuracy": round(candidate.objectives["accuracy"], 4),
        "payload_bytes": int(costs["payload_bytes"]),
        "share_of_all_to_all": round(costs["payload_bytes"] / baseline.costs["payload_bytes"], 5),
        "latency_s": costs["latency_s"],
    }


class Searched:
    """One seed's search: the baseline, the named policies, and the cheapest that stays within the margin."""

    def __init__(self, folder: Path, result: SearchResult, largest: Architecture, seed: int) -> None:
        self.seed, self.result = seed, result
        self.by_key = {candidate.key: candidate for candidate in load_candidates(folder)}
        self.named = {name: self.by_key[named_plan_key(largest, name)] for name in ("all-to-all", "hand-made")}
        self.baseline = self.named["all-to-all"]
        least = self.baseline.objectives["accuracy"] - MARGIN
        enough = [each for each in self.by_key.values() if each.objectives["accuracy"] >= least]
        self.cheapest = min(enough, key=lambda each: each.costs["payload_bytes"])

    def row(self, candidate: Candidate) -> dict[str, Any]:
        return {"seed": self.seed, **row(candidate, self.baseline)}

    def figures(self) -> dict[str, float]:
        """What is measured of each seed."""
        return {
            "supernet_accuracy_all_to_all": self.baseline.objectives["accuracy"],
            "supernet_accuracy_hand_made": self.named["hand-made"].objectives["accuracy"],
            "supernet_accuracy_of_the_enough": self.cheapest.objectives["accuracy"],
            "bytes_within_0_3_points": self.cheapest.costs["payload_bytes"],
            "share_within_0_3_points": self.cheapest.costs["payload_bytes"] / self.baseline.costs["payload_bytes"],
            "candidates": self.result.candidates,
            "front_size": len(self.result.front),
            "hypervolume": self.result.hypervolume,
        }


def search(chosen: argparse.Namespace, space: SearchSpace, data: ImageData, seed: int) -> Searched:
    """Run a seed's search to its end, or read what it found."""
    folder = chosen.out / f"seed-{seed}"
    result = run_search(
        space, uniform_cluster(space.num_devices), data, folder, candidates=chosen.candidates,
        seed=seed, changes=RecipeChanges(chosen.supernet_epochs), resume=True,
    )  # fmt: skip
    return Searched(folder, result, space.architecture_of(space.largest()), seed)


def main() -> None:
    chosen = arguments()
    space = SearchSpace.load(SPACE)
    use_threads_for(space.architecture_of(space.largest()), chosen.threads)
    data = load_dataset(chosen.data, root=chosen.data_root)
    with Recorder(HERE / "result.json", seeds=chosen.seeds, root=HERE) as record:
        searches = [search(chosen, space, data, seed) for seed in chosen.seeds]
        every = [each.figures() for each in searches]
        for name in every[0]:
            found = [figures[name] for figures in every]
            unit = "B" if name.startswith("bytes") else ""
            record.measure(name, fmean(found), unit, min(found), max(found), len(found))
        record.table(
            "phases",
            [
                {"seed": each.seed, "phase": name, "seconds": round(seconds, 1)}
                for each in searches
                for name, seconds in each.result.seconds.items()
            ],
        )
        record.table("named", [{"policy": name, **each.row(c)} for each in searches for name, c in each.named.items()])
        record.table("front", [each.row(candidate) for each in searches for candidate in each.result.front])


if __name__ == "__main__":
    main()
