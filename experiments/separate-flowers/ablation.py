"""Each switch of the recipe `separate` by itself, for one cell, on validation images: which of them help?

The network is separated once. Each training is resumed if it was interrupted, and none is repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from run import HERE, Cell, Experiment, Row, parser_of, run_main, runs_of

from sepnas.results.provenance import command_line
from sepnas.results.recorder import Recorder
from sepnas.spec.document import write_text
from sepnas.train.recipe import RECIPES, Recipe
from sepnas.train.tuning import prepare_tuning

CELL = Cell(devices=4, share=0.005, epochs=2, seed=0, tiles="add_1", points=8, few=True)
SEEDS = (0, 1)
PLACES = ("--settings", "--weights", "--out", "--kept")
"""Options that say where files lie."""


def distilled(**changes: float) -> Row:
    return {"distillation": {"weight": 0.9, "temperature": 2.0} | changes}


def cropped(area: float) -> Row:
    return {"augmentation": {"crop_area": area, "flip": True, "alternate_flips": True}}


SWITCHES: dict[str, Row] = {
    "base": {},
    "features-1": distilled(features=1.0),
    "learning-rate-5e-4": {"learning_rate": 5e-4},
    "learning-rate-1e-3": {"learning_rate": 1e-3},
    "features-10": distilled(features=10.0),
    "weight-1": distilled(weight=1.0),
    "temperature-4": distilled(temperature=4.0),
    "weight-0.5": distilled(weight=0.5),
    "learning-rate-1e-4": {"learning_rate": 1e-4},
    "features-0.3": distilled(features=0.3),
    "features-3": distilled(features=3.0),
    "temperature-1": distilled(temperature=1.0),
    "crop-area-0.5": cropped(0.5),
    "crop-area-1": cropped(1.0),
    "batch-32": {"batch_size": 32},
    "average": {"ema_decay": 0.95},
    "one-cycle": {"schedule": "one-cycle", "warmup": 0.0},
    "input-rate-0.3": {"input_rate": 0.3},
}


def recipe_of(name: str) -> Recipe:
    """The recipe of a switch: that of the cells, which mirror images, in one respect another."""
    base = RECIPES["separate"].mirroring(True).to_data() | {"epochs": CELL.epochs}
    return Recipe.from_data(base | SWITCHES[name], name)


class Ablation(Experiment):
    """The trainings of one seed; what is found is kept in the folder ``kept``, the table beside it."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        super().__init__(chosen.settings, runs_of(chosen), chosen.weights, chosen.threads)
        self.kept, self.seed = chosen.kept, chosen.seed

    def kept_of(self, name: str, seed: int | None = None) -> Row | None:
        """What was found, if it was by this very recipe."""
        path = self._file(name, self.seed if seed is None else seed)
        data: Row = json.loads(path.read_text()) if path.is_file() else {}
        return data if data.get("recipe") == recipe_of(name).to_data() else None

    def train(self, name: str) -> Row:
        """Train with a switch, and keep the accuracies on validation images."""
        reference, start = self.reference(CELL.seed), self.separated(CELL)
        run = self.out / f"ablation-{name}-seed-{self.seed}"
        self.share_answers(run, CELL.seed)
        training = prepare_tuning(start, self.images, recipe=recipe_of(name), teachers=(reference,))
        result = training.run(run, seed=self.seed, resume=True, threads=self.threads)
        before = self.accuracy(start, self.images.val, self.images)
        found = {
            "start_accuracy": before, "val_by_epoch": [each.val_accuracy for each in result.history],
            "accuracy": max(before, result.best_accuracy), "recipe": recipe_of(name).to_data(), "seed": self.seed,
        }  # fmt: skip
        write_text(self._file(name, self.seed), json.dumps(found, indent=1) + "\n")
        return found

    def _file(self, name: str, seed: int) -> Path:
        return self.kept / f"{name}-seed-{seed}.json"

    def record(self) -> None:
        """What was found of all switches and seeds, beside the recipe as it stands with the same seed."""
        rows = []
        for seed in SEEDS:
            base = self.kept_of("base", seed)
            for name in SWITCHES:
                found = self.kept_of(name, seed)
                if base and found:
                    ahead = found["val_by_epoch"][-1] - base["val_by_epoch"][-1]
                    rows.append(
                        {
                            "switch": name, "seed": seed, "start_val": found["start_accuracy"],
                            "last_val": found["val_by_epoch"][-1], "kept_val": found["accuracy"],
                            "gain_points": round(100 * ahead, 2),
                        }
                    )  # fmt: skip
        if rows:
            seeds = sorted({row["seed"] for row in rows})
            with Recorder(self.kept.parent / "ablation.json", command_of(), seeds=seeds, root=HERE) as record:
                record.measure("switches_that_help", sum(row["gain_points"] > 0 for row in rows), "", n=len(rows))
                record.table("ablation", rows)


def command_of() -> str:
    """The running command without what changes no row: the places of files, and which switches it trains."""
    left_out = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in PLACES:
        left_out.add_argument(option)
    left_out.add_argument("--only", nargs="*")
    return command_line([sys.argv[0], *left_out.parse_known_args()[1]])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--kept", type=Path, default=HERE / "ablation", help="what was found; ablation.json beside it")
    parser.add_argument("--seed", type=int, choices=SEEDS, default=0, help="of the trainings")
    parser.add_argument(
        "--only", nargs="*", choices=SWITCHES, default=list(SWITCHES), help="these switches; none: write the table"
    )
    chosen = parser.parse_args()
    ablation = Ablation(chosen)
    for name in chosen.only:
        found = ablation.kept_of(name)
        if found is None:
            print(f"{name} ...", flush=True)
            found = ablation.train(name)
        print(f"{name}: validation {', '.join(f'{each:.2%}' for each in found['val_by_epoch'])}", flush=True)
    ablation.record()


if __name__ == "__main__":
    run_main(main)
