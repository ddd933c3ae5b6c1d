"""Two, four and eight devices, the better recipe, a strong teacher: what are few bytes between the devices worth?

Each training is resumed if it was interrupted, and none is repeated; what was found is kept in ``found-devices``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cells import HERE, SEARCHED, SPACE
from children import command_of, parser_of, run_children, run_main, threads_of

from sepnas import api
from sepnas.errors import SpecError
from sepnas.plan.device_totals import macs_of_device
from sepnas.results.recorder import Recorder
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.part import DevicePart
from sepnas.separable.patterns import all_to_all, all_to_all_policy, point
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.spec.document import write_text
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.recipe import RECIPES, Recipe

SETTINGS, KEPT, RESULT = HERE / "devices.json", HERE / "found-devices", HERE / "result-devices.json"
TEACHER = Path("runs/separate-cifar100/reference-8-epochs-seed-0")
ANSWERS = "teacher0.safetensors"
WHOLE = SPACE.architecture_of(SPACE.largest())
GROUPS = sum(each.cardinality for each in WHOLE.parts)
WIRE = "int8"
LATE = ((3, 0.25), (4, 0.125))
"""Blocks after which each device sends each other one the first channels of its output, and their share."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A network of the table: a policy over some devices, and how what arrives is merged."""

    devices: int
    policy: str
    merge: str = "mean"

    @property
    def name(self) -> str:
        return f"{self.devices}-devices-{self.policy}{'' if self.merge == 'mean' else f'-{self.merge}'}"

    @property
    def architecture(self) -> Architecture:
        """The network of the table over some devices: the groups, or their channels, are shared out."""
        part = _part(self.devices)
        policy = _policy(self.policy, self.devices).written_in(WIRE, "sample").merged_by(self.merge)
        data = WHOLE.to_data() | {"name": self.name, "parts": [part.model_dump()] * self.devices}
        return Architecture.from_data(data | {"policy": policy.to_data()}, self.name)


def _part(devices: int) -> DevicePart:
    part = WHOLE.parts[0]
    if devices <= GROUPS:
        return part.model_copy(update={"cardinality": GROUPS // devices})
    return part.model_copy(update={"bottleneck_width": part.bottleneck_width * GROUPS // devices})


def _policy(name: str, devices: int) -> TransmissionPolicy:
    mean = Readout(kind="mean" if devices > 1 else "device")
    if name in ("no-exchange", "not-separable"):
        return TransmissionPolicy(readout=mean)
    if name == "all-to-all":
        return all_to_all_policy(devices, WHOLE.blocks_per_stage).model_copy(update={"readout": mean})
    if name == "late":
        points = tuple(point(after, all_to_all(devices), fraction) for after, fraction in LATE)
        return TransmissionPolicy(name=name, points=points, readout=mean)
    path = SEARCHED / f"{name}.json"
    if not path.is_file():
        raise SpecError(f"{SETTINGS.name}: no policy {name!r}; there is no {path.name} in {SEARCHED.name}")
    return Architecture.load(path).policy


class Table:
    """The settings, and where runs and findings lie."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.settings: Found = json.loads(chosen.settings.read_text())
        self.chosen, self.kept = chosen, chosen.kept
        self.rows = [Row(**each) for each in self.settings["rows"]]
        named = dict(self.settings["recipe"])
        base, changes = RECIPES[named.pop("name")], named | {"distillation": self.settings["distillation"]}
        self.recipe = Recipe.from_data(base.to_data() | changes, base.name)

    def trainings(self) -> Iterator[tuple[int, Row]]:
        return ((seed, row) for seed in self.settings["seeds"] for row in self.rows)

    def found(self, seed: int, row: Row) -> Found | None:
        """What is kept of a training, if it was by this recipe."""
        path = self.kept / f"{row.name}-seed-{seed}.json"
        data: Found = json.loads(path.read_text()) if path.is_file() else {}
        return data if data.get("recipe") == self.recipe.to_data() else None

    def train(self, seed: int, row: Row) -> None:
        """Train it to its end; then the test images are looked at, once."""
        chosen, run = self.chosen, self.chosen.out / f"{row.name}-seed-{seed}"
        data = load_dataset(chosen.data, root=chosen.data_root)
        self._share_answers(run)
        teachers = [chosen.teacher] if self.recipe.distillation else []
        result = api.train(
            row.architecture, run, data=data, recipe=self.recipe, teachers=teachers, seed=seed, resume=True,
            device=chosen.device, threads=threads_of(chosen), compiled=chosen.compiled,
        )  # fmt: skip
        found = asdict(row) | {"seed": seed} | self.measured(row, run, data) | {
            "val_accuracy": result.best_accuracy, "best_epoch": result.best_epoch,
            "val_by_epoch": [each.val_accuracy for each in result.history],
            "seconds": sum(each.duration_s for each in result.history),
            "recipe": self.recipe.to_data(),
        }  # fmt: skip
        self.kept.mkdir(exist_ok=True)
        write_text(self.kept / f"{row.name}-seed-{seed}.json", json.dumps(found, indent=1) + "\n")

    def measured(self, row: Row, run: Path, data: ImageData) -> Found:
        """The accuracy on test images, and the costs of one image; ``total_bytes`` has the input and the answer."""
        plan = build_plan(row.architecture)
        network = load_network(run)
        return {
            "test_accuracy": accuracy(network, data.test, data),
            "payload_bytes": plan.payload_bytes(), "input_bytes": plan.input_bytes(),
            "total_bytes": plan.total_bytes(), "elements": plan.elements(),
            "macs": [macs_of_device(plan, rank) for rank in range(plan.num_devices)],
        }  # fmt: skip

    def _share_answers(self, run: Path) -> None:
        """The teacher's answers are the same for all; a run checks whose they are."""
        run.mkdir(parents=True, exist_ok=True)
        others = sorted(self.chosen.out.glob(f"*/{ANSWERS}"))
        if others and not (run / ANSWERS).exists():
            shutil.copy(others[0], run / ANSWERS)

    def record(self) -> None:
        """Write the table, and what exchange is worth on each number of devices."""
        every = [found for seed, row in self.trainings() if (found := self.found(seed, row))]
        if not every:
            return
        with Recorder(RESULT, command_of(), seeds=tuple(sorted({each["seed"] for each in every})), root=HERE) as record:
            for row in self.rows:
                top1 = [100 * each["test_accuracy"] for each in _of(every, row)]
                if top1:
                    name = f"top1_{row.name.replace('-', '_')}"
                    record.measure(name, fmean(top1), "%", min(top1), max(top1), len(top1))
            self._record_goal(record, every)
            self._record_worth(record, every)
            record.measure("core_hours", sum(each["seconds"] for each in every) / 3600, "h", n=len(every))
            record.table("rows", [{k: v for k, v in each.items() if k not in ("recipe", "macs")} for each in every])

    def _record_goal(self, record: Recorder, every: Sequence[Found]) -> None:
        """The searched policy of at most 5 % of all-to-all's elements, and its bytes, input and answer included."""
        found = _of(every, Row(4, "searched-5"))
        if found:
            top1 = [100 * each["test_accuracy"] for each in found]
            record.measure(f"top1_searched_5_{WIRE}", fmean(top1), "%", min(top1), max(top1), len(top1), goal=">= 62")
            record.measure("total_bytes", found[0]["total_bytes"], "B", n=len(found))

    def _record_worth(self, record: Recorder, every: Sequence[Found]) -> None:
        """The points by which the best exchange, by validation, is ahead of none, on test images, seed by seed."""
        for devices in sorted({row.devices for row in self.rows if row.devices > 1}):
            gains = []
            for seed in self.settings["seeds"]:
                own = [each for each in every if (each["devices"], each["seed"]) == (devices, seed)]
                silent = [each for each in own if each["policy"] == "no-exchange"]
                sending = [each for each in own if each["policy"] not in ("no-exchange", "all-to-all")]
                if silent and sending:
                    best = max(sending, key=lambda each: float(each["val_accuracy"]))
                    gains.append(100 * (best["test_accuracy"] - silent[0]["test_accuracy"]))
            if gains:
                name = f"worth_of_exchange_points_{devices}_devices"
                record.measure(name, fmean(gains), "", min(gains), max(gains), len(gains))


def _of(every: Sequence[Found], row: Row) -> list[Found]:
    return [each for each in every if Row(each["devices"], each["policy"], each["merge"]) == row]


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, Path("runs/cifar100-cpu/devices"))
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--kept", type=Path, default=KEPT, help="where what was found is kept, for a trial elsewhere")
    parser.add_argument(
        "--teacher", type=Path, default=TEACHER, help="run.py --references of separate-flowers makes it"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=None,
        metavar="NAME",
        help="these, such as 4-devices-late-concat, or 4-devices-late-concat-seed-0",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="steps in two thirds of the time, after minutes of compilation"
    )
    parser.add_argument("--list", action="store_true", help="what is found already, and write the table")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    table = Table(chosen)
    named = {f"{row.name}-seed-{seed}": (seed, row) for seed, row in table.trainings()}
    if chosen.child:
        table.train(*named[chosen.child])
        return
    only = set(chosen.only or named)
    unknown = only - set(named) - {row.name for _, row in named.values()}
    if unknown:
        raise SpecError(f"--only: there is no {', '.join(sorted(unknown))}; known: {', '.join(named)}")
    wanted = [name for name, (_, row) in named.items() if only & {name, row.name}]
    missing = [name for name in wanted if not table.found(*named[name])]
    try:
        if not chosen.list:
            run_children(missing, chosen.jobs, lambda name: _told(table.found(*named[name])))
    finally:
        for name in wanted:
            print(f"{name}: {_told(table.found(*named[name]))}")
        if chosen.kept == KEPT:
            table.record()


def _told(found: Found | None) -> str:
    if not found:
        return "not trained yet"
    return f"validation {found['val_accuracy']:.1%}, {found['payload_bytes']:,} bytes between devices"


if __name__ == "__main__":
    run_main(main)
