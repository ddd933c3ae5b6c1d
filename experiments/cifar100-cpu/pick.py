"""Which searched policies enter the table: for each range of elements the one whose accuracy the searches trust most.

Reads the runs of ``experiments/search-cifar100-cpu``. A candidate is held against all-to-all over the same supernet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cells import SEARCHED, SPACE

from sepnas.search.candidate import Candidate
from sepnas.search.canonical import named_plan_key
from sepnas.search.folder import load_candidates
from sepnas.separable.build import build_plan

RANGES = {"searched-5": (0.02, 0.05), "searched-2": (0.005, 0.02), "searched-0.5": (0.001, 0.005)}
"""By name: more than the first and at most the second share of the elements that all-to-all sends."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/search-cifar100-cpu"))
    chosen = parser.parse_args()
    largest = SPACE.architecture_of(SPACE.largest())
    whole, key = build_plan(largest).elements(), named_plan_key(largest, "all-to-all")
    evaluated: list[tuple[float, float, str, Candidate]] = []
    for run in sorted(chosen.runs.glob("seed-*")):
        candidates = load_candidates(run)
        base = next(each for each in candidates if each.key == key).objectives["accuracy"]
        for each in candidates:
            share = build_plan(each.architecture).elements() / whole
            evaluated.append((each.objectives["accuracy"] - base, share, f"{run.name}, candidate {each.index}", each))
    for name, (low, high) in RANGES.items():
        within = [each for each in evaluated if low < each[1] <= high]
        gain, share, where, best = max(within, key=lambda each: (each[0], -each[1]))
        print(f"{name}: {where}, {share:.2%} of the elements, {100 * gain:+.2f} points (of {len(within)})")
        policy = best.architecture.policy.model_copy(update={"name": name})
        best.architecture.model_copy(update={"name": name, "policy": policy}).save(SEARCHED / f"{name}.json")


if __name__ == "__main__":
    main()
