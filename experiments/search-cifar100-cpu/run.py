"""A search for real: which policies over 4 devices are worth their bytes on CIFAR-100, at CPU size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sepnas.report.recorder import Recorder
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import named_plan_key
from sepnas.search.folder import load_candidates
from sepnas.search.run import run_search
from sepnas.spec.cluster import uniform_cluster
from sepnas.spec.space import SearchSpace
from sepnas.train.data import load_dataset
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
    parser.add_argument("--seed", type=int, default=0)
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


def main() -> None:
    chosen = arguments()
    space = SearchSpace.load(SPACE)
    largest = space.architecture_of(space.largest())
    use_threads_for(largest, chosen.threads)
    data = load_dataset(chosen.data, root=chosen.data_root)
    with Recorder(HERE / "result.json", seeds=(chosen.seed,), root=HERE) as record:
        result = run_search(
            space, uniform_cluster(space.num_devices), data, chosen.out, candidates=chosen.candidates,
            seed=chosen.seed, supernet_epochs=chosen.supernet_epochs, resume=True,
        )  # fmt: skip
        by_key = {candidate.key: candidate for candidate in load_candidates(chosen.out)}
        named = {name: by_key[named_plan_key(largest, name)] for name in ("all-to-all", "hand-made")}
        baseline = named["all-to-all"]
        enough = [c for c in by_key.values() if c.objectives["accuracy"] >= baseline.objectives["accuracy"] - MARGIN]
        least = min(enough, key=lambda c: c.costs["payload_bytes"])
        images = len(data.val)
        record.measure("supernet_accuracy_all_to_all", baseline.objectives["accuracy"], n=images)
        record.measure("supernet_accuracy_hand_made", named["hand-made"].objectives["accuracy"], n=images)
        record.measure("supernet_accuracy_of_the_enough", least.objectives["accuracy"], n=images)
        record.measure("bytes_within_0_3_points", least.costs["payload_bytes"], "B")
        record.measure(
            "share_within_0_3_points", least.costs["payload_bytes"] / baseline.costs["payload_bytes"], n=len(by_key)
        )
        record.measure("candidates", result.candidates)
        record.measure("front_size", len(result.front))
        record.measure("hypervolume", result.hypervolume)
        record.table("phases", [{"phase": name, "seconds": round(s, 1)} for name, s in result.seconds.items()])
        record.table("named", [{"policy": name, **row(c, baseline)} for name, c in named.items()])
        record.table("front", [row(candidate, baseline) for candidate in result.front])


if __name__ == "__main__":
    main()
