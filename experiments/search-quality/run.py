"""Which strategy finds the better front with the same number of accuracy evaluations?"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from cells import CLUSTER, SPACE, WORST, explore_cell, make_evaluator
from numpy.typing import NDArray
from settings import cells_folder

from sepnas.results.recorder import Recorder
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import plan_key
from sepnas.search.explorer import STRATEGIES, StrategyName
from sepnas.search.pareto import hypervolume, pareto_front
from sepnas.search.screen import Screen, first_genotypes
from sepnas.separable.architecture import named_policy
from sepnas.separable.build import build_plan

matplotlib.use("svg")
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent.parent / "runs" / "search-quality"
OURS: StrategyName = "predictive"
SCALES = {"linear": False, "log": True}
GOALS = {"random": ">= 1.2", "regularized-evolution": "> 1", "nsga2": "> 1", "evolution": "> 1"}
NAMES = {
    "random": "over_random",
    "regularized-evolution": "over_regularized_evolution",
    "nsga2": "over_plain_nsga2",
    "evolution": "of_predictor",
}
Cells = dict[tuple[StrategyName, int], list[Candidate]]
Curves = dict[StrategyName, NDArray[np.float64]]


def explore_all(runs: Path, seeds: range, evaluations: int, workers: int) -> Cells:
    """Every strategy with every seed, some side by side."""
    make_evaluator(runs / "supernet")
    cells = [(strategy, seed) for seed in seeds for strategy in STRATEGIES]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        futures = {cell: pool.submit(explore_cell, runs, *cell, evaluations) for cell in cells}
        found = {}
        for cell, future in futures.items():
            found[cell] = future.result()
            print(f"{cell[0]}, seed {cell[1]}: front of {len(pareto_front(found[cell]))}", flush=True)
    return found


def gains(candidates: list[Candidate], known: list[Candidate], marks: list[int], log: bool) -> list[float]:
    """The hypervolume that is gained over that of ``known``, after so many evaluations."""
    start = hypervolume(known, WORST, log)
    return [hypervolume(pareto_front([*known, *candidates[:mark]]), WORST, log) - start for mark in marks]


def curves_of(cells: Cells, seeds: range, known: list[Candidate], marks: list[int], log: bool) -> Curves:
    """For each strategy the gains, a row for each seed."""
    return {name: np.array([gains(cells[name, seed], known, marks, log) for seed in seeds]) for name in STRATEGIES}


def record_ratios(record: Recorder, curves: Curves, suffix: str) -> None:
    """Ours over each other one at the end: the ratio of means, and the spread of the ratios of equal seeds."""
    ours = curves[OURS][:, -1]
    for name, text in NAMES.items():
        other = curves[name][:, -1]
        ratios = ours / np.maximum(other, 1e-12)
        value = ours.mean() / max(other.mean(), 1e-12)
        record.measure(
            f"hypervolume_gain_{text}{suffix}", value, "ratio", ratios.min(), ratios.max(), len(ours), GOALS[name]
        )


def history_rows(curves: Curves, seeds: range, marks: list[int]) -> list[dict[str, object]]:
    return [
        {"strategy": name, "seed": seed, **{str(mark): round(value, 5) for mark, value in zip(marks, row, strict=True)}}
        for name, rows in curves.items()
        for seed, row in zip(seeds, rows, strict=True)
    ]


def draw(path: Path, curves: dict[str, Curves], marks: list[int]) -> None:
    """Gains against evaluations: the mean of the seeds and their spread."""
    figure, axes = pyplot.subplots(len(SCALES), len(curves) // len(SCALES), figsize=(9, 6))
    for axis, (title, found) in zip(axes.flat, curves.items(), strict=True):
        for name, rows in found.items():
            axis.plot(marks, rows.mean(axis=0), label=name)
            axis.fill_between(marks, rows.min(axis=0), rows.max(axis=0), alpha=0.2)
        axis.set(title=title, xlabel="accuracy evaluations", ylabel="hypervolume gained")
        axis.set_ylim(bottom=0)
    axes.flat[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def named_candidates(cells: Cells) -> dict[str, list[Candidate]]:
    """The hand-made policy, and all that our strategy starts with: it evaluates them first."""
    by_key = {candidate.key: candidate for candidate in cells[OURS, 0]}
    network, screen = SPACE.architecture_of(SPACE.largest()), Screen(SPACE, CLUSTER)
    hand_made = network.with_policy(named_policy("hand-made", network.num_devices, network.depth))
    return {
        "hand_made": [by_key[plan_key(build_plan(hand_made))]],
        "start": [by_key[screen(genotype).key] for genotype in first_genotypes(SPACE)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of result.json and the picture")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    seeds, marks = range(given.seeds), [*range(50, given.evaluations, 50), given.evaluations]
    with Recorder(given.out / "result.json", seeds=seeds, root=HERE) as record:
        cells = explore_all(cells_folder(RUNS), seeds, given.evaluations, given.workers)
        known = named_candidates(cells)
        make_curves = partial(curves_of, cells, seeds, marks=marks)
        pictures = {}
        for scale, log in SCALES.items():
            curves = make_curves(known["hand_made"], log=log)
            beyond = make_curves(known["start"], log=log)
            suffix = "_log" if log else ""
            record_ratios(record, curves, suffix)
            record_ratios(record, beyond, f"_beyond_start{suffix}")
            record.table(f"gain_over_hand_made_{scale}", history_rows(curves, seeds, marks))
            record.table(f"gain_beyond_start_{scale}", history_rows(beyond, seeds, marks))
            pictures |= {f"over the hand-made policy, {scale}": curves, f"beyond the named policies, {scale}": beyond}
        draw(given.out / "hypervolume.svg", pictures, marks)
        rows = [(text, c) for text, found in known.items() for c in found]
        record.table("known", [{"set": text, **c.objectives} for text, c in rows])
    for measure in record.measures.values():
        print(f"{measure.name}: {measure.value:.2f} ({measure.low:.2f} to {measure.high:.2f})")


if __name__ == "__main__":
    main()
