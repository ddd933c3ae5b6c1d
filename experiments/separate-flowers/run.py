"""Separates a fine-tuned network over devices, with ever fewer bytes between them: what accuracy is left?

Each training is resumed if it was interrupted, and none is repeated; what was found is kept beside the settings.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

import kept
import torch

from sepnas import api
from sepnas.errors import SepnasError
from sepnas.nets.trainable import load_trainable
from sepnas.partition.counts import count_partition
from sepnas.partition.graph import load_graph
from sepnas.plan.document import load_plan
from sepnas.results.recorder import Recorder
from sepnas.separation.document import PLAN_NAME, is_separated
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import device_preset, link_preset
from sepnas.spec.writing import write_bytes
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData, Split
from sepnas.train.recipe import RecipeChanges
from sepnas.train.separated import SeparatedTuning
from sepnas.train.source import DataSource

HERE = Path(__file__).resolve().parent
NETWORK = "timm:tf_efficientnet_lite0"
TRAITS = {"mean": (0.498039,) * 3, "std": (0.501961,) * 3}
"""What the weights were trained with: (x - 127) / 128."""
BOARD, LINKS = "raspberry-pi-4b", ("ethernet-100mbit", "wifi-5ghz")
"""The cluster that a network is separated for: with the first of these links."""
ANSWERS = "teacher0.safetensors"
REFERENCE = "kept_sha256"
"""The digest of a reference's kept file; a cell names that of its own."""
EQUAL = 0.002
"""A network is as accurate as its reference if it loses no more than this on validation images."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One separated network: ``share`` of the exact split's bytes, in format ``wire``, trained for ``epochs``.

    ``tiles`` is what stays exact, in tiles; ``points`` is the number of exchange points at most; ``few`` leaves out
    messages that are worth less than a link's latency.
    """

    devices: int
    share: float
    epochs: int
    seed: int
    wire: str = "auto"
    tiles: str = "auto"
    points: int | None = None
    few: bool = False

    @property
    def name(self) -> str:
        tiles = "" if self.tiles == "none" else f"-tiles-{self.tiles}"
        points = "" if self.points is None else f"-{self.points}-points"
        points += "-few" if self.few else ""
        share = f"{100 * self.share:g}"
        return f"{self.devices}-devices-{share}-{self.wire}{tiles}{points}-{self.epochs}-epochs-seed-{self.seed}"

    def options(self) -> dict[str, Any]:
        """How ``api.separate`` makes it."""
        return {
            "cluster": cluster_of(self.devices, LINKS[0]), "budget": self.share, "wire": self.wire, "seed": self.seed,
            "tiles_until": self.tiles, "exchange_points": self.points, "messages": "few" if self.few else "any",
        }  # fmt: skip


def cluster_of(count: int, link: str) -> Cluster:
    """Boards with all of their cores, and a client in the same network."""
    boards = tuple(device_preset(BOARD, f"{BOARD}-{rank}") for rank in range(count))
    found = link_preset(link)
    return Cluster(name=f"{count} {BOARD} on {link}", devices=boards, links=(found,), client_link=found)


class Experiment:
    """The settings of one data set, and where its runs lie."""

    def __init__(self, settings: Path, out: Path, weights: Path, threads: int | None) -> None:
        self.settings: dict[str, Any] = json.loads(settings.read_text())
        self.home, self.out, self.weights, self.threads = settings.resolve().parent, out, weights, threads
        self.result = self.home / settings.name.replace("settings", "result")
        side = int(self.settings["image_size"])
        self.source = DataSource(self.settings["data"], image_size=side)
        self._images: ImageData | None = None

    @property
    def images(self) -> ImageData:
        """The images, normalised as the network's are."""
        if self._images is None:
            self._images = SeparatedTuning(self.reference(self.settings["seeds"][0]), self.source).images
        return self._images

    def cells(self) -> Iterator[Cell]:
        """All cells in the order of the settings, seed by seed."""
        for seed in self.settings["seeds"]:
            for row in self.settings["cells"]:
                yield Cell(seed=seed, **row)

    def reference_name(self, seed: int) -> str:
        return f"reference-{self.settings['reference_epochs']}-epochs-seed-{seed}"

    def reference(self, seed: int) -> Path:
        """The whole network, fine-tuned, as its kept file holds it; trained, rounded and kept if there is none."""
        run, file = self.out / self.reference_name(seed), self.found_file(self.reference_name(seed), kept.SUFFIX)
        if not file.is_file():
            self._train_reference(seed, run, file)
        elif not kept.is_made(file, run):
            kept.make(file, self._whole(), run)
        return run

    def _whole(self) -> Path:
        """The network before fine-tuning."""
        whole, side = self.out / "whole", self.settings["image_size"]
        api.import_network(
            NETWORK, whole, weights=self.weights, match="order", traits=TRAITS, force=True,
            input_shapes=[(3, side, side)],
        )  # fmt: skip
        return whole

    def _train_reference(self, seed: int, run: Path, file: Path) -> None:
        """Train, or go on; the accuracies are of the rounded network, and its file appears when all is done."""
        whole, rounded = self._whole(), run / file.name
        changes = RecipeChanges(epochs=self.settings["reference_epochs"], flip=True)
        result = api.train(
            whole, run, data=self.source, head="new", changes=changes, seed=seed, resume=True, threads=self.threads
        )
        kept.keep(run, whole, rounded, seed)
        kept.make(rounded, whole, run)
        images = SeparatedTuning(run, self.source).images
        found = {
            "val_by_epoch": [each.val_accuracy for each in result.history],
            "val_accuracy": self.accuracy(run, images.val, images),
            "test_accuracy": self.accuracy(run, images.test, images),
            "duration_s": sum(each.duration_s for each in result.history),
            REFERENCE: sha256(rounded.read_bytes()).hexdigest(),
        }
        self.keep(self.reference_name(seed), found)
        write_bytes(file, rounded.read_bytes())

    def found_file(self, name: str, suffix: str) -> Path:
        return self.home / "found" / f"{name}{suffix}"

    def found(self, name: str) -> Row | None:
        path = self.found_file(name, ".json")
        return json.loads(path.read_text()) if path.is_file() else None

    def found_cell(self, cell: Cell) -> Row | None:
        """What is kept of a cell, if it was made from the reference that is kept, by the same rule for messages.

        Those that name no rule are of a version that always left messages out.
        """
        found, reference = self.found(cell.name), self.found(self.reference_name(cell.seed)) or {}
        if not found or found.get("few", True) != cell.few:
            return None
        return found if found.get("reference") == reference.get(REFERENCE) else None

    def keep(self, name: str, found: Row) -> None:
        path = self.found_file(name, ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")

    def test(self, run: Path) -> float:
        """The accuracy on test images, messages rounded; measured once, when a training has ended."""
        return self.accuracy(run, self.images.test, self.images)

    def accuracy(self, run: Path, split: Split, images: ImageData) -> float:
        network = load_trainable(run).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accuracy(network, split, images)

    def run(self, cell: Cell) -> Row:
        """Separate and train a cell, and keep what was found."""
        reference, run = self.reference(cell.seed), self.out / cell.name
        options = cell.options()
        if cell.epochs:
            self.share_answers(run, cell.seed)
            tuned = api.separate_and_train(
                reference, run, self.source, changes=RecipeChanges(epochs=cell.epochs, flip=True), resume=True,
                threads=self.threads, **options,
            )  # fmt: skip
            separated = tuned.separation
            trained = {
                "accuracy": tuned.accuracy, "start_accuracy": tuned.start_accuracy,
                "original_accuracy": tuned.original_accuracy,
                "val_by_epoch": [each.val_accuracy for each in tuned.training.history],
                "duration_s": sum(each.duration_s for each in tuned.training.history),
            }  # fmt: skip
        else:
            separated = api.separate(reference, run, data=self.source, force=True, **options)
            start = self.accuracy(run, self.images.val, self.images)
            trained = {"accuracy": start, "start_accuracy": start, "val_by_epoch": []}
        counts = count_partition(load_graph(run), load_plan(run / PLAN_NAME))
        found: Row = asdict(cell) | trained | {
            "test_accuracy": self.test(run), "payload_bytes": separated.payload_bytes,
            "exact_bytes": separated.exact_bytes, "fixed_bytes": separated.fixed_bytes,
            "messages": len(separated.plan.transfers()), "open_points": separated.points,
            "silent_points": separated.silent_points, "input_bytes": separated.plan.input_bytes(),
            "tiles_end": separated.separation.tiles and separated.separation.tiles.tensor,
            "importance_within": separated.within,
            "macs": list(counts.macs), "weight_bytes": list(counts.weight_bytes),
            "reference": (self.found(self.reference_name(cell.seed)) or {}).get(REFERENCE),
        }  # fmt: skip
        self.keep(cell.name, found)
        return found

    def separated(self, cell: Cell) -> Path:
        """A cell's network before training, in a folder of its own."""
        reference = self.reference(cell.seed)
        digest = (self.found(self.reference_name(cell.seed)) or {}).get(REFERENCE, "")
        run = self.out / f"start-of-{cell.name}-{digest[:8]}"
        if not is_separated(run):
            api.separate(reference, run, data=self.source, **cell.options())
        return run

    def share_answers(self, run: Path, seed: int) -> None:
        """The answers of the reference of a seed are the same for all cells; a run checks whose they are."""
        run.mkdir(parents=True, exist_ok=True)
        others = sorted(self.out.glob(f"*-devices-*-seed-{seed}/{ANSWERS}"))
        if others and not (run / ANSWERS).exists():
            shutil.copy(others[0], run / ANSWERS)

    def record(self) -> None:
        """Write the table, and the measures at the numbers of devices that the settings name first."""
        rows = [found for cell in self.cells() if (found := self.found_cell(cell))]
        if not rows:
            return
        seeds = tuple(sorted({row["seed"] for row in rows}))
        whole = {seed: found["test_accuracy"] for seed in seeds if (found := self.found(self.reference_name(seed)))}
        table = [
            {
                "devices": row["devices"], "bytes": row["share"], "wire": row["wire"],
                "tiles": row.get("tiles_end") or "none",
                "points": row.get("points") if "open_points" in row else None,
                "few": row["few"], "epochs": row["epochs"],
                "seed": row["seed"], "kilobytes": round(row["payload_bytes"] / 1e3, 1),
                "messages": row["messages"], "start_val": row.get("start_accuracy"), "val": accuracy_of(row),
                "test": row["test_accuracy"],
                "points_lost": round(100 * (whole[row["seed"]] - row["test_accuracy"]), 2),
                "largest_macs": max(row["macs"]), "largest_weight_bytes": max(row["weight_bytes"]),
            }
            for row in rows
        ]  # fmt: skip
        with Recorder(self.result, seeds=seeds, root=HERE) as record:
            record.measure(
                "reference_top1", fmean(whole.values()), low=min(whole.values()), high=max(whole.values()), n=len(whole)
            )
            for share, goal in ((0.05, "<= 0.5"), (0.02, "<= 1")):
                lost = self._lost(table, share)
                if lost:
                    record.measure(
                        f"points_lost_at_{100 * share:g}_percent", fmean(lost), low=min(lost), high=max(lost),
                        n=len(lost), goal=goal,
                    )  # fmt: skip
            silent, sent = self._lost(table, 0), self._lost(table, 0.02)
            if silent and len(silent) == len(sent):
                ahead = [none - some for none, some in zip(silent, sent, strict=True)]
                record.measure(
                    "points_ahead_of_no_exchange_at_2_percent", fmean(ahead), low=min(ahead), high=max(ahead),
                    n=len(ahead), goal=">= 2",
                )  # fmt: skip
            if saved := self._saved(rows):
                record.measure(
                    "bytes_saved_at_equal_accuracy", fmean(saved), low=min(saved), high=max(saved), n=len(saved),
                    goal=">= 0.8",
                )  # fmt: skip
            record.table("separated", table)

    def _lost(self, table: list[Row], share: float) -> list[float]:
        """The points lost by each seed at a share of the bytes, in the way that is best on validation images."""
        first = self.settings["cells"][0]["devices"]
        found: dict[int, tuple[float, float]] = {}
        for row in table:
            if row["bytes"] == share and row["devices"] == first and (row["epochs"] or share):
                found[row["seed"]] = max((row["val"], row["points_lost"]), found.get(row["seed"], (0.0, 0.0)))
        return [found[seed][1] for seed in sorted(found)]

    def _saved(self, rows: list[Row]) -> list[float]:
        """The largest share of the exact split's bytes that each seed saves at equal accuracy on validation images."""
        first = self.settings["cells"][0]["devices"]
        found: dict[int, float] = {}
        for row in rows:
            whole = self.found(self.reference_name(row["seed"])) or {}
            if row["devices"] == first and accuracy_of(row) >= whole.get("val_accuracy", 1.0) - EQUAL:
                saved = 1 - row["payload_bytes"] / row["exact_bytes"]
                found[row["seed"]] = max(saved, found.get(row["seed"], 0.0))
        return [found[seed] for seed in sorted(found)]


def accuracy_of(row: Row) -> float:
    """Of the network that is kept, on validation images."""
    return float(row.get("accuracy") or max(row["val_by_epoch"]))


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that the commands of an experiment share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    parser.add_argument("--weights", type=Path, default=Path("data/efficientnet-lite0-57934424.pth"))
    parser.add_argument("--out", type=Path, default=None, help="the runs [runs/NAME of the settings' folder]")
    parser.add_argument("--threads", type=int, default=None)
    return parser


def experiment_of(chosen: argparse.Namespace) -> Experiment:
    """The experiment that the options name."""
    return Experiment(chosen.settings, runs_of(chosen), chosen.weights, chosen.threads)


def runs_of(chosen: argparse.Namespace) -> Path:
    """The folder of the runs."""
    out: Path = chosen.out or Path("runs") / chosen.settings.resolve().parent.name
    return out


def run_main(main: Callable[[], None]) -> None:
    """A command, whose errors are messages."""
    try:
        main()
    except SepnasError as error:
        raise SystemExit(f"error: {error}") from None


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--references", action="store_true", help="only the whole networks, trained or as kept")
    parser.add_argument("--list", action="store_true", help="what is found already, and write the table")
    chosen = parser.parse_args()
    experiment = experiment_of(chosen)
    if chosen.references:
        for seed in experiment.settings["seeds"]:
            print(experiment.reference(seed))
        return
    for cell in experiment.cells():
        found = experiment.found_cell(cell)
        if found is None and not chosen.list:
            print(f"{cell.name} ...", flush=True)
            found = experiment.run(cell)
        if found:
            print(f"{cell.name}: validation {accuracy_of(found):.2%}, {found['payload_bytes']:,} bytes")
    experiment.record()


if __name__ == "__main__":
    run_main(main)
