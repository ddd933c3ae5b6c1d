"""The paper's networks on CIFAR-100 at full size: trains the next missing runs until the time is up."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from table import record
from trainings import Run, pending, runs_of

from sepnas.errors import SepnasError
from sepnas.separable.build import build_plan
from sepnas.spec.document import write_text
from sepnas.train.checkpoint import BEST, load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.loop import pick_device, train_network
from sepnas.train.recipe import load_recipe
from sepnas.train.record import HISTORY, TrainingResult, best_of, read_history
from sepnas.train.start import digest_of, first_network

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"


class Driver:
    """The runs of one network, recipe and seed: where each lies, how far it is, and what was found of it."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.every = list(runs_of(chosen.network, chosen.devices, chosen.searched))
        self.recipe = load_recipe(chosen.recipe).changed(chosen.recipe, epochs=chosen.epochs)
        names = [run.name for run in self.every]
        unknown = sorted(set(chosen.only or ()) - set(names))
        if unknown:
            raise SystemExit(f"no run {unknown[0]!r}; there are: {', '.join(names)}")

    def folder(self, run: Run) -> Path:
        chosen = self.chosen
        return Path(chosen.out) / f"{chosen.network}-{chosen.recipe}-{run.name}-s{chosen.seed}"

    def file(self, run: Run) -> Path:
        chosen = self.chosen
        return Path(chosen.found) / f"{chosen.network}-{chosen.recipe}" / f"{run.name}-s{chosen.seed}.json"

    def made_by(self, run: Run) -> dict[str, Any]:
        return {"recipe": run.recipe(self.recipe).to_data(), "architecture": run.architecture.to_data()}

    def found(self, run: Run) -> dict[str, Any] | None:
        """What is kept of it, if it was of this recipe and network."""
        path = self.file(run)
        data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        made_by = self.made_by(run)
        return data if {key: data.get(key) for key in made_by} == made_by else None

    def is_finished(self, run: Run) -> bool:
        """With its checkpoint still there, for others to go on from."""
        folder = self.folder(run)
        known = (folder / HISTORY).exists() and (folder / BEST).exists()
        return known and len(read_history(folder)) == run.recipe(self.recipe).epochs

    def pending(self) -> list[Run]:
        only = self.chosen.only
        wanted = [run for run in self.every if not self.found(run) and (not only or run.name in only)]
        return pending(self.every, wanted, [run for run in self.every if self.is_finished(run)])

    def train(self, run: Run, data: ImageData, left_s: float) -> TrainingResult:
        """From its last checkpoint, as far as the time reaches; at its end the test images are looked at, once."""
        chosen = self.chosen
        start = load_network(self.folder(run.start)) if run.start else None
        result = train_network(
            first_network(run.architecture, data, chosen.seed, start), data, run.recipe(self.recipe), self.folder(run),
            seed=chosen.seed, resume=True, device=chosen.device, stop_after_s=left_s, compiled=chosen.compile,
            teachers=[load_network(self.folder(run.teacher))] if run.teacher else (),
            start=digest_of(start),
        )  # fmt: skip
        if result.finished and not self.found(run):
            self.note(run, result, data)
        return result

    def note(self, run: Run, result: TrainingResult, data: ImageData) -> None:
        best, plan = best_of(result.history), build_plan(run.architecture)
        network = load_network(self.folder(run)).to(pick_device(self.chosen.device))
        found = {
            "val_accuracy": best.val_accuracy,
            "test_accuracy": accuracy(network, data.test, data),
            "best_epoch": best.epoch,
            "val_by_epoch": [each.val_accuracy for each in result.history],
            "images_per_s": result.images_per_s,
            "seconds": result.duration_s,
            "payload_bytes": plan.payload_bytes(),
            "elements": plan.elements(),
            "goes_on": run.start is not None,
        }
        self.file(run).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file(run), json.dumps(found | self.made_by(run), indent=2) + "\n")

    def tell(self) -> None:
        for run in self.every:
            folder = self.folder(run)
            epochs = len(read_history(folder)) if (folder / HISTORY).exists() else 0
            so_far = "done" if self.found(run) else f"{epochs} of {run.recipe(self.recipe).epochs} epochs"
            print(f"{run.name}: {so_far}, {build_plan(run.architecture).payload_bytes():,} bytes")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnext56_4x16d", help="such as resnext56_64x4d, resnext29_8x16d")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--recipe", default="modern", help="modern, paper, or cifar-fast for a trial")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's, for a trial (with --found)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=None, help="these runs, and what they need; --list names them")
    parser.add_argument("--stop-after-s", type=float, default=540.0)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile; if entry 1 of the queue gains by it")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100-full"))
    parser.add_argument("--found", type=Path, default=FOUND, help="what was found; result.json beside it")
    parser.add_argument("--searched", type=Path, default=HERE / "searched", help="architectures that a search found")
    parser.add_argument(
        "--list", action="store_true", help="say which runs there are, how far each is, what each sends"
    )
    chosen = parser.parse_args(given)
    if chosen.epochs is not None and chosen.found == FOUND:
        parser.error("--epochs is for trials: name another place for what they find, with --found")
    return chosen


def main() -> None:
    chosen = arguments()
    until = time.monotonic() + chosen.stop_after_s
    driver = Driver(chosen)
    if chosen.list:
        driver.tell()
        return
    left = driver.pending()
    data = load_dataset(chosen.data, root=chosen.data_root) if left else None
    epoch_s = 0.0
    while left and data:
        left_s = max(0.0, until - time.monotonic())
        if left_s < epoch_s:  # a run that is begun takes an epoch at least
            break
        print(left[0].name, flush=True)
        result = driver.train(left[0], data, left_s)
        if not result.finished:
            break
        record(chosen.found)
        epoch_s = 2 * result.history[-1].duration_s
        left.pop(0)
    if left:
        print(f"{left[0].name} is next: the time is up; the same command goes on")
    else:
        print("nothing is missing")


if __name__ == "__main__":
    try:
        main()
    except SepnasError as error:
        raise SystemExit(f"error: {error}") from None
