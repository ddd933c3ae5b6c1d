"""The time that NNI adds to the evaluation of a candidate in a local trial, for batches of several sizes."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sepnas.nets.supernet import Supernet
from sepnas.results.recorder import Recorder
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.experiment import explore
from sepnas.search.explorer import BATCH, EvaluatedGenotype, Explorer
from sepnas.search.folder import archive_of
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.screen import Screen, Screened
from sepnas.search.strategies import make_proposer
from sepnas.search.strategy import MultiObjectiveStrategy
from sepnas.search.trials.kit import write_kit
from sepnas.search.trials.settings import Trials, trials_engine
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData, Split

HERE = Path(__file__).resolve().parent
SPACES = HERE.parent.parent / "search_spaces"
BATCHES = tuple(dict.fromkeys((BATCH, 24, 64)))
TRIALS = 6
CIFAR_VALIDATION = 5000
EVALUATED = 3


class TimedExplorer(Explorer):
    """Notes how long each batch was out, less its evaluation: the median's, for in a trial the first one is slow."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.overheads_s: list[float] = []

    def propose(self) -> list[Screened] | None:
        batch = super().propose()
        self.evaluation_s: list[float] = []
        self.left_at = time.perf_counter()
        return batch

    def take(self, evaluated: EvaluatedGenotype) -> None:
        super().take(evaluated)
        self.evaluation_s.append(evaluated.duration_s)

    def close(self) -> None:
        evaluating_s = len(self.evaluation_s) * statistics.median(self.evaluation_s)
        self.overheads_s.append(time.perf_counter() - self.left_at - evaluating_s)
        super().close()


def overheads_ms(space: SearchSpace, data: ImageData, batch: int) -> list[float]:
    """Of each trial: one trial evaluates a batch. The first has the start of NNI's server in it."""
    with tempfile.TemporaryDirectory() as name:
        folder, network = Path(name), Supernet(space)
        archive, screen = archive_of(folder, space), Screen(space, uniform_cluster(space.num_devices))
        proposer = make_proposer("evolution", PolicyProblem(screen, 0), 0)
        count = batch * (1 + TRIALS)
        explorer = TimedExplorer(proposer, archive, space.objectives, count, lambda candidate, fresh: None, batch)

        def fill(kit: Path) -> None:
            write_kit(kit, AccuracyEvaluator(network, data, 0, torch.device("cpu")), data, 0)

        with trials_engine(Trials(), folder / "trials", fill, lambda text: None) as engine:
            explore(space.choices(), MultiObjectiveStrategy(explorer), lambda genotype: {"accuracy": 0.0}, engine)
        return [1e3 * value for value in explorer.overheads_s]


def evaluation_ms(space: SearchSpace, data: ImageData) -> list[float]:
    """Of one candidate, in this process; how well the supernet is trained does not matter."""
    evaluator, draw, found = AccuracyEvaluator(Supernet(space), data, 0, torch.device("cpu")), torch.Generator(), []
    for _ in range(EVALUATED):
        genotype = space.sample(lambda n: int(torch.randint(n, (), generator=draw)))
        start = time.perf_counter()
        evaluator(genotype)
        found.append(1e3 * (time.perf_counter() - start))
    return found


def noise(space: SearchSpace, images: int) -> ImageData:
    """Images of the space's size; evaluation takes as long on them as on real ones."""
    size, channels = space.network.image_size, space.network.in_channels
    pixels = torch.randint(0, 256, (images, channels, size, size), dtype=torch.uint8)
    split = Split(pixels, torch.zeros(images, dtype=torch.int64))
    classes = tuple(map(str, range(space.network.num_classes)))
    return ImageData("noise", classes, split, split, split, (0.5,) * channels, (0.5,) * channels)


def measure_trials(record: Recorder) -> None:
    torch.set_num_threads(1)
    demo, cifar = (SearchSpace.load(SPACES / f"{name}.yaml") for name in ("demo", "cifar-small"))
    digits = load_dataset("digits")

    def note(name: str, values_ms: list[float]) -> None:
        record.measure(name, statistics.median(values_ms), "ms", min(values_ms), max(values_ms), len(values_ms))

    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        first_ms, *trials_ms = overheads_ms(demo, digits, batch)
        trial_ms = statistics.median(trials_ms)
        if batch == BATCH:
            note("nni_overhead_local_trial_ms", [value / batch for value in trials_ms])
            note("nni_overhead_a_trial_ms", trials_ms)
        row = {"a_trial_ms": round(trial_ms), "a_candidate_ms": round(trial_ms / batch, 1)}
        rows.append({"batch": batch, **row, "start_ms": round(first_ms - trial_ms)})
    record.table("trials_by_batch", rows)
    note("judging_digits_ms", evaluation_ms(demo, digits))
    note("judging_cifar_small_ms", evaluation_ms(cifar, noise(cifar, CIFAR_VALIDATION)))
