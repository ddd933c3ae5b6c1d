"""How much of the exact hypervolume of NAS-Bench-201 does each strategy find, and after how many evaluations?"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import matplotlib
import numpy as np
from benchmark import DATA_SETS, Benchmark, read_accuracies, write_json
from contestants import CONTESTANTS

import sepnas.search
from sepnas.results.recorder import Recorder
from sepnas.spec.document import write_text

matplotlib.use("svg")
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TUNED_ON, REPORTED = "cifar10-val", "cifar100-val"
OURS = "predictive"
COSTS = ("macs",)
MARKS = (50, 100, 200, 500)
Curves = dict[str, np.ndarray]
"""For each strategy the shares of the exact hypervolume: a row for each seed, a column for each evaluation."""


def cells_folder() -> Path:
    """Where this code's cells are kept; other code has another folder, so none can be stale."""
    sources = sorted([*Path(sepnas.search.__file__).parent.glob("*.py"), *HERE.glob("*.py")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return ROOT / "runs" / HERE.name / digest[:12]


def explore_seed(benchmark: Benchmark, folder: Path, strategy: str, setting: str, seed: int) -> list[str]:
    """What a strategy evaluates, kept in a file from which an interrupted experiment continues."""
    name = f"{strategy} {setting}".strip().replace(" ", "-").replace(",", "")
    path = folder / f"{name}-{seed}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(CONTESTANTS[strategy][setting](benchmark, seed, MARKS[-1])) + "\n")
    return json.loads(path.read_text())


def explore_all(benchmark: Benchmark, folder: Path, settings: dict[str, str], seeds: range) -> Curves:
    """Each strategy with its setting and every seed."""
    curves = {}
    for strategy, setting in settings.items():
        found = (explore_seed(benchmark, folder, strategy, setting, seed) for seed in seeds)
        curves[strategy] = np.stack([_to_the_end(benchmark.shares(texts)) for texts in found])
        print(f"{folder.name}, {strategy} {setting}: {_at_marks(curves[strategy])}", flush=True)
    return curves


def _to_the_end(curve: np.ndarray) -> np.ndarray:
    """The curve of a strategy that asks for known cells only in the end, as TPE does, stays level."""
    return np.pad(curve, (0, MARKS[-1] - len(curve)), mode="edge")


def choose_settings(benchmark: Benchmark, folder: Path, seeds: range, record: Recorder) -> dict[str, str]:
    """The setting of each strategy that has the greatest mean share over the marks."""
    chosen, rows = {}, []
    for strategy, settings in CONTESTANTS.items():
        means = {}
        for setting in settings:
            curve = explore_all(benchmark, folder, {strategy: setting}, seeds)[strategy]
            means[setting] = float(curve[:, np.array(MARKS) - 1].mean())
            rows.append({"strategy": strategy, "setting": setting, **_at_marks(curve)})
        chosen[strategy] = max(means, key=lambda setting: means[setting])
    record.table(f"settings_{TUNED_ON.replace('-', '_')}", rows)
    return chosen


def evaluations_to(curve: np.ndarray, share: float) -> float:
    """The first number of evaluations with this share; infinite if it is not reached."""
    return float(np.argmax(curve >= share) + 1) if (curve >= share).any() else float("inf")


def record_data_set(record: Recorder, name: str, curves: Curves) -> None:
    """Shares at the marks with their spread over the seeds, and when ours has what random has at the end."""
    suffix = "" if name == REPORTED else f"_{name.replace('-', '_')}"
    target, mine = float(curves["random"][:, -1].mean()), curves[OURS]
    each = np.minimum([evaluations_to(row, target) for row in mine], MARKS[-1])
    goal = "<= 100" if name == REPORTED else None
    mean = min(evaluations_to(mine.mean(axis=0), target), MARKS[-1])
    record.measure(
        f"evaluations_to_random_{MARKS[-1]}{suffix}", mean, "evaluations", each.min(), each.max(), len(each), goal
    )
    rows = []
    for strategy, curve in curves.items():
        for mark in MARKS:
            at = curve[:, mark - 1]
            low, high = np.quantile(at, [0.1, 0.9])
            rows.append({"strategy": strategy, "evaluations": mark, "mean": round(float(at.mean()), 4),
                         "tenth": round(float(low), 4), "ninetieth": round(float(high), 4)})  # fmt: skip
            if mark == 100:
                short = strategy.replace("-", "_")
                record.measure(f"share_at_100_{short}{suffix}", at.mean(), "share", at.min(), at.max(), len(at))
    record.table(f"shares_{name.replace('-', '_')}", rows)


def draw(path: Path, found: dict[str, Curves]) -> None:
    """Shares against evaluations: the mean of the seeds, and a tenth to nine tenths of them."""
    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 4), squeeze=False)
    for axis, (name, curves) in zip(axes.flat, found.items(), strict=True):
        for strategy, curve in curves.items():
            numbers = np.arange(1, curve.shape[1] + 1)
            low, high = np.quantile(curve, [0.1, 0.9], axis=0)
            axis.plot(numbers, curve.mean(axis=0), label=strategy)
            axis.fill_between(numbers, low, high, alpha=0.15)
        axis.axhline(curves["random"][:, -1].mean(), color="gray", linewidth=0.8, linestyle=":")
        axis.set(title=name, xlabel="evaluations", xscale="log", xlim=(10, MARKS[-1]), ylim=(0.85, 1))
    axes.flat[0].set_ylabel("share of the exact hypervolume")
    axes.flat[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", type=Path, required=True, help="the pickled table, or its JSON")
    parser.add_argument("--json", type=Path, help="write the table as JSON here, and do nothing else")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--data-sets", nargs="*", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of result.json and the picture")
    given = parser.parse_args()
    accuracies = read_accuracies(given.benchmark)
    if given.json:
        write_json(accuracies, given.json)
        return
    seeds, folder, found = range(given.seeds), cells_folder(), {}
    given.out.mkdir(parents=True, exist_ok=True)
    benchmarks = {name: Benchmark(accuracies[name], DATA_SETS[name], COSTS) for name in DATA_SETS}
    with Recorder(given.out / "result.json", seeds=seeds, root=HERE) as record:
        settings = choose_settings(benchmarks[TUNED_ON], folder / TUNED_ON, seeds, record)
        for name in given.data_sets:
            found[name] = explore_all(benchmarks[name], folder / name, settings, seeds)
            record_data_set(record, name, found[name])
        draw(given.out / "hypervolume.svg", found)
    for measure in record.measures.values():
        print(f"{measure.name}: {measure.value:.4g} ({measure.low:.4g} to {measure.high:.4g})")


def _at_marks(curve: np.ndarray) -> dict[str, float]:
    return {f"at_{mark}": round(float(curve[:, mark - 1].mean()), 4) for mark in MARKS}


if __name__ == "__main__":
    main()
