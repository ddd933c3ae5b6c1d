"""What NNI adds to the judging of a candidate, in this process and in a local trial, beside the judging itself."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sepnas.nets.supernet import Supernet
from sepnas.report.recorder import Recorder
from sepnas.search.archive import Archive
from sepnas.search.experiment import explore
from sepnas.search.explorer import BATCH, Explorer, Judged
from sepnas.search.judge import SupernetJudge
from sepnas.search.screen import Screen, Screened
from sepnas.search.strategy import MultiObjectiveStrategy
from sepnas.search.trials.kit import write_kit
from sepnas.search.trials.settings import Trials, trials_engine
from sepnas.spec.cluster import uniform_cluster
from sepnas.spec.space import SearchSpace
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData, Split

SPACES = Path(__file__).resolve().parent.parent.parent / "search_spaces"
BATCHES = tuple(dict.fromkeys((BATCH, 24, 64)))
IN_PROCESS_BATCHES = 10
TRIALS = 6
CIFAR_VALIDATION = 5000
JUDGED = 3


class RandomProposer:
    """Costs nearly nothing, and so leaves nothing of a strategy in what is measured."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.draw = space, random.Random(0).randrange
        self.screen = Screen(space, uniform_cluster(space.num_devices))

    def propose(self) -> Screened:
        return self.screen(self.space.sample(self.draw))

    def tell(self, key: str, objectives: object) -> None:
        pass


class TimedExplorer(Explorer):
    """Notes, for each batch, what passed besides judging while it was out."""

    def propose(self) -> list[Screened] | None:
        batch = super().propose()
        self.size, self.judged_s, self.left_at = len(batch or ()), 0.0, time.perf_counter()
        return batch

    def take(self, judged: Judged) -> None:
        super().take(judged)
        self.judged_s += judged.duration_s

    def close(self) -> None:
        self.overheads_s.append(time.perf_counter() - self.left_at - self.judged_s)
        super().close()


def overheads_s(space: SearchSpace, data: ImageData, batch: int, batches: int, trials: Trials | None) -> list[float]:
    """What NNI took for each batch."""
    with tempfile.TemporaryDirectory() as name:
        folder, network = Path(name), Supernet(space)
        archive = Archive(folder / "candidates.jsonl", space)
        count = batch * batches
        explorer = TimedExplorer(RandomProposer(space), archive, space.objectives, count, lambda *_: None, batch)
        explorer.overheads_s = []
        strategy = MultiObjectiveStrategy(explorer)
        if trials is None:
            explore(space, strategy, SupernetJudge(network, data, 0, torch.device("cpu")))
        else:
            fill = lambda kit: write_kit(kit, network, data, 0, "cpu")  # noqa: E731
            with trials_engine(trials, folder / "trials", fill, lambda text: None) as engine:
                explore(space, strategy, lambda genotype: 0.0, engine)
        return explorer.overheads_s


def evaluation_ms(space: SearchSpace, data: ImageData) -> list[float]:
    judge = SupernetJudge(Supernet(space), data, 0, torch.device("cpu"))
    draw, found = random.Random(0).randrange, []
    for _ in range(JUDGED):
        genotype = space.sample(draw)
        start = time.perf_counter()
        judge(genotype)
        found.append(1e3 * (time.perf_counter() - start))
    return found


def noise(space: SearchSpace, images: int) -> ImageData:
    """Images of the space's size; judging takes as long on them as on real ones."""
    size, channels = space.network.image_size, space.network.in_channels
    pixels = torch.randint(0, 256, (images, channels, size, size), dtype=torch.uint8)
    split = Split(pixels, torch.zeros(images, dtype=torch.int64))
    classes = tuple(map(str, range(space.network.num_classes)))
    return ImageData("noise", classes, split, split, split, (0.5,) * channels, (0.5,) * channels)


def measure_overhead(record: Recorder) -> None:
    """Measures ``nni_overhead_*`` and ``accuracy_evaluation_*``, and the table ``by_batch``, with one thread."""
    torch.set_num_threads(1)
    space, digits = SearchSpace.load(SPACES / "demo.yaml"), load_dataset("digits")

    def note(name: str, values: list[float], unit: str = "ms") -> None:
        record.measure(name, statistics.median(values), unit, min(values), max(values), len(values))

    here = [1e3 * value / BATCH for value in overheads_s(space, digits, BATCH, IN_PROCESS_BATCHES, None)]
    note("nni_overhead_in_process_ms", here)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        first, *others = overheads_s(space, digits, batch, 1 + TRIALS, Trials())
        trial_ms = [1e3 * value for value in others]  # the first one has the start of NNI's server in it
        rows.append(
            {
                "batch": batch,
                "per_trial_ms": round(statistics.median(trial_ms)),
                "per_candidate_ms": round(statistics.median(trial_ms) / batch, 1),
                "start_ms": round(1e3 * first - statistics.median(trial_ms)),
            }
        )
        if batch == BATCH:
            note("nni_overhead_local_trial_ms", [value / batch for value in trial_ms])
            note("nni_overhead_a_trial_ms", trial_ms)
    record.table("by_batch", rows)
    note("accuracy_evaluation_digits_ms", evaluation_ms(space, digits))
    cifar = SearchSpace.load(SPACES / "cifar-small.yaml")
    note("accuracy_evaluation_cifar_small_ms", evaluation_ms(cifar, noise(cifar, CIFAR_VALIDATION)))


if __name__ == "__main__":
    with Recorder(Path(__file__).with_name("overhead.json"), seeds=(0,)) as recorder:
        measure_overhead(recorder)
        for measure in recorder.measures.values():
            print(f"{measure.name}: {measure.value:.4g} {measure.unit} ({measure.low:.4g}..{measure.high:.4g})")
