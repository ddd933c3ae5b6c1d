"""What is an answer worth without one, two, three of four devices, with and without device dropout in training?"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from cells import IMAGE_SIZE, NUM_DEVICES, Cell
from processes import through_processes

from sepnas.results.recorder import Recorder
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData, Split

HERE = Path(__file__).resolve().parent
WAYS = [lost for count in range(NUM_DEVICES) for lost in combinations(range(NUM_DEVICES), count)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=Path("runs/runtime-degradation"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--dropouts", type=float, nargs="+", default=[0.1, 0.25], help="the first seed chooses of these"
    )
    parser.add_argument("--images", type=int, default=300, help="of the test split, to ask processes")
    parser.add_argument("--only", metavar="CELL", help="train this one, such as seed1-dropout0.1, and stop")
    return parser.parse_args()


class Comparison:
    """All cells; what has been trained, measured and asked is read again instead."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.data = load_dataset(chosen.data, root=chosen.data_root, image_size=IMAGE_SIZE)

    def cell(self, seed: int, dropout: float) -> Cell:
        return Cell(self.chosen.out, seed, dropout, self.chosen.epochs)

    def trained(self, seed: int, dropout: float) -> Cell:
        cell = self.cell(seed, dropout)
        cell.train(self.data)
        return cell

    def train_only(self, name: str) -> None:
        cells = [self.cell(seed, share) for seed in self.chosen.seeds for share in (0.0, *self.chosen.dropouts)]
        found = [cell for cell in cells if cell.name == name]
        if not found:
            raise SystemExit(f"--only: no cell {name!r}; there are {', '.join(cell.name for cell in cells)}")
        found[0].train(self.data)

    def choose(self) -> tuple[float, list[dict[str, Any]]]:
        """The share of the best mean of the validation accuracies with no and with one device lost; first seed."""
        seed, rows = self.chosen.seeds[0], []
        for share in (0.0, *self.chosen.dropouts):
            found = by_count(self.measured(self.trained(seed, share), "validation"))
            rows.append({"device_dropout": share, **{f"{count}_lost": value for count, value in enumerate(found)}})
        best = max(rows[1:], key=lambda row: row["0_lost"] + row["1_lost"])
        return best["device_dropout"], rows

    def measured(self, cell: Cell, part: str) -> dict[str, float]:
        """Accuracy on the validation or test split for each way to lose devices."""
        found: dict[str, float] | None = cell.noted(part)
        if found is None:
            split, network = self.data.val if part == "validation" else self.data.test, load_network(cell.run)
            found = {way_name(lost): accuracy(network, split, self.data, lost=lost) for lost in WAYS}
            cell.note(part, found)
        return found

    def asked(self, cell: Cell) -> list[dict[str, Any]]:
        """Answers of real processes, some of them killed, beside the whole network's."""
        found: list[dict[str, Any]] | None = cell.noted("processes")
        if found is None or found[0]["images"] != self.chosen.images:
            found = through_processes(cell, some(self.data, self.chosen.images), self.data)
            cell.note("processes", found)
        return found


def way_name(lost: tuple[int, ...]) -> str:
    return "-".join(map(str, lost)) or "none"


def by_count(accuracies: dict[str, float]) -> list[float]:
    """The mean accuracy with 0, 1, ... devices lost, over all ways to lose so many."""
    return [
        fmean(accuracies[way_name(lost)] for lost in combinations(range(NUM_DEVICES), count))
        for count in range(NUM_DEVICES)
    ]


def some(data: ImageData, count: int) -> Split:
    """Test images at even steps, so of all classes."""
    return data.test.take(torch.linspace(0, len(data.test) - 1, count).round().long())


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    comparison = Comparison(chosen)
    if chosen.only:
        comparison.train_only(chosen.only)
        return
    with Recorder(HERE / "result.json", seeds=chosen.seeds, root=HERE) as record:
        share, choice = comparison.choose()
        shares = {"with": share, "without": 0.0}
        cells = {kind: [comparison.trained(seed, shares[kind]) for seed in chosen.seeds] for kind in shares}
        found = {kind: [comparison.measured(cell, "test") for cell in cells[kind]] for kind in shares}
        measure(record, chosen.seeds, found)
        asked = [
            {"dropout_in_training": shares[kind], **row} for kind in shares for row in comparison.asked(cells[kind][0])
        ]
        differ = sum(row["answers_that_differ"] for row in asked)
        record.measure("device_dropout", share)
        record.measure("answers_of_processes_that_differ", differ, n=sum(row["images"] for row in asked), goal="<= 0")
        record.table("choice_on_validation_data", choice)
        record.table("processes", asked)


def measure(record: Recorder, seeds: list[int], found: dict[str, list[dict[str, float]]]) -> None:
    """Of each number of lost devices the mean over seeds, with the least and the greatest; each seed in the table."""
    counts = {kind: [by_count(each) for each in seeds_of] for kind, seeds_of in found.items()}
    for count in range(NUM_DEVICES):
        for kind in found:
            values = [each[count] for each in counts[kind]]
            record.measure(
                f"accuracy_{count}_lost_{kind}_dropout", fmean(values), "", min(values), max(values), len(values)
            )
    gains = [a[1] - b[1] for a, b in zip(counts["with"], counts["without"], strict=True)]
    record.measure("gain_1_lost", fmean(gains), "", min(gains), max(gains), len(gains), "> 0")
    record.table(
        "accuracy_by_devices_lost",
        [
            {"seed": seed, "dropout": kind, "lost": way, "accuracy": value}
            for kind, each in found.items()
            for seed, ways in zip(seeds, each, strict=True)
            for way, value in ways.items()
        ],
    )


if __name__ == "__main__":
    main()
