"""The trainings of the table: which there are, what each is, and what was found of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.device_totals import macs_of_device
from sepnas.plan.wire import Scale, WireFormat
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.separable.space import SearchSpace
from sepnas.spec.document import write_text
from sepnas.train.checkpoint import load_network
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.loop import train_network
from sepnas.train.recipe import Recipe
from sepnas.train.record import HISTORY, EpochRecord, read_history
from sepnas.train.start import digest_of, first_network
from sepnas.train.threads import use_threads_for

HERE = Path(__file__).resolve().parent
SPACE = SearchSpace.load(HERE.parent.parent / "search_spaces" / "cifar-small-full.yaml")
BODY = "resnext20_4x16d"
"""The whole of it: four devices have a group each."""
RECIPE, FINE_RECIPE = HERE / "recipe.yaml", HERE / "fine.yaml"
FOUND = HERE / "found"
"""What was found of each finished cell; kept, so that the table may be filled over weeks and on several machines."""
SEARCHED = HERE / "searched"
"""Architectures that a search found, one for each budget of bytes (``pick.py``)."""
QUANTISED: tuple[WireFormat, ...] = ("int8", "int4")
WIRES: tuple[WireFormat, ...] = ("fp32", *QUANTISED)
"""A network is trained with fp32 messages at first, and then goes on with each of these; quantised ones have learned
scales."""
SILENT = ("not-separable", "one-device", "no-exchange")
"""Between their devices nothing crosses but logits: what a message is written in makes no difference."""
NAMED = ("all-to-all", "hand-made")
TAUGHT = "-taught"
"""Behind a network's name: it also learns what the one that is not separable, of the same seed, answers."""
TEACHER, DISTILLATION = SILENT[0], {"weight": 0.7, "temperature": 2.0}


def searched() -> list[str]:
    return sorted(path.stem for path in SEARCHED.glob("*.json"))


def architecture_of(network: str, wire: WireFormat, scale: Scale = "learned") -> Architecture:
    """A network of the table, its messages written in ``wire``, whatever the search had chosen."""
    network = network.removesuffix(TAUGHT)
    largest = SPACE.architecture_of(SPACE.largest())
    part = largest.parts[0]
    if network == "not-separable":  # the paper's counterpart: all groups in one network of the same width
        whole = part.model_copy(update={"cardinality": sum(each.cardinality for each in largest.parts)})
        return _named(largest, network, (whole,), TransmissionPolicy())
    if network == "one-device":
        return _named(largest, network, (part,), TransmissionPolicy())
    mean = Readout(kind="mean")
    if network == "no-exchange":
        return _named(largest, network, largest.parts, TransmissionPolicy(readout=mean))
    if network in NAMED:
        policy = named_policy(network, largest.num_devices, largest.depth).model_copy(update={"readout": mean})
    else:
        policy = Architecture.load(SEARCHED / f"{network}.json").policy
    return _named(largest, f"{network}-{wire}", largest.parts, policy.written_in(wire, scale))


def _named(like: Architecture, name: str, parts: Sequence[Any], policy: TransmissionPolicy) -> Architecture:
    data = like.to_data() | {"name": name, "parts": [each.model_dump() for each in parts], "policy": policy.to_data()}
    return Architecture.from_data(data, name)


@dataclass(frozen=True)
class Cell:
    """One training: a network, what its messages are written in, a seed; or the one that these go on from."""

    out: Path
    network: str
    wire: WireFormat
    seed: int
    recipe: Recipe
    kept: Path = FOUND
    started_by: Recipe | None = None
    """That of the training that this one goes on from; None: this is where the others begin."""

    @property
    def name(self) -> str:
        stage = "-base" if self.started_by is None else "" if self.network in SILENT else f"-{self.wire}"
        return f"{self.network}{stage}-s{self.seed}"

    @property
    def run(self) -> Path:
        return self.out / self.name

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.network, self.wire)

    def train(
        self,
        data: ImageData,
        device: str,
        threads: int | None,
        teachers: Sequence[SeparableNetwork] = (),
        start: SeparableNetwork | None = None,
        watch_test: bool = False,
    ) -> tuple[EpochRecord, ...]:
        """From its last checkpoint, if there is one, to its end; its epochs.

        ``watch_test`` writes down what the test images would have said of each epoch; it decides nothing.
        """
        use_threads_for(self.architecture, threads)
        network = first_network(self.architecture, data, self.seed, start)
        return train_network(
            network, data, self.recipe, self.run, seed=self.seed, resume=True, device=device, progress=False,
            teachers=teachers, start=digest_of(start),
            validate=self._watching(data) if watch_test else None,
        ).history  # fmt: skip

    def _watching(self, data: ImageData) -> Callable[[nn.Module], float]:
        def validate(network: nn.Module) -> float:
            epoch = 1 + (len(read_history(self.run)) if (self.run / HISTORY).exists() else 0)
            seen = self.watched() | {epoch: accuracy(network, data.test, data)}
            write_text(self.run / "watched.json", json.dumps(seen) + "\n")
            return accuracy(network, data.val, data)

        return validate

    def watched(self) -> dict[int, float]:
        """Test accuracy by epoch, where it was watched."""
        path = self.run / "watched.json"
        return {int(epoch): value for epoch, value in json.loads(path.read_text()).items()} if path.exists() else {}

    def unprepared(self, data: ImageData, device: torch.device) -> dict[str, dict[str, float]]:
        """Validation accuracy if its messages were quantised without another step of training."""
        trained, found = load_network(self.run), dict[str, dict[str, float]]()
        for wire in QUANTISED:
            for scale in ("sample", "learned"):
                network = first_network(architecture_of(self.network, wire, scale), data, self.seed, trained).eval()
                found.setdefault(wire, {})[scale] = accuracy(network, data.val, data, device=device)
        return found

    def found(self) -> dict[str, Any] | None:
        """What :meth:`note` has kept, if it was of these recipes and this network."""
        path = self.kept / f"{self.name}.json"
        data = json.loads(path.read_text()) if path.exists() else {}
        return data if data.get("made_by") == self._made_by() else None

    def _made_by(self) -> dict[str, Any]:
        recipes = [recipe.to_data() for recipe in (self.started_by, self.recipe) if recipe]
        return {"recipes": recipes, "architecture": self.architecture.to_data()}

    def note(self, found: dict[str, Any]) -> None:
        self.kept.mkdir(parents=True, exist_ok=True)
        data = found | {"made_by": self._made_by()}
        write_text(self.kept / f"{self.name}.json", json.dumps(data, indent=2) + "\n")

    def costs(self) -> dict[str, Any]:
        """What it sends for one image, in bytes and in numbers, and the multiply-adds of one device."""
        plan = build_plan(self.architecture)
        macs = [macs_of_device(plan, rank) for rank in range(plan.num_devices)]
        return {"payload_bytes": plan.payload_bytes(), "elements": plan.elements(), "macs_of_a_device": max(macs)}


@dataclass(frozen=True)
class Group:
    """A network and a seed: the training with fp32 messages, and those of the table, which go on from it alike.

    ``teacher`` is the group of the network that it learns from, if it is taught.
    """

    base: Cell
    cells: tuple[Cell, ...]
    teacher: Group | None = None

    @property
    def name(self) -> str:
        return f"{self.base.network}-s{self.base.seed}"

    def missing(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.found()]


def groups_of(out: Path, kept: Path, seeds: Sequence[int], recipe: Recipe, fine: Recipe) -> Iterator[Group]:
    """All of them, a seed after the other; first what answers most."""

    def group(network: str, seed: int, teacher: Group | None = None) -> Group:
        taught = {"distillation": DISTILLATION} if teacher else {}
        first, last = (Recipe.from_data(each.to_data() | taught, each.name) for each in (recipe, fine))
        wires = ("fp32",) if network in SILENT else WIRES
        cells = (Cell(out, network, wire, seed, last, kept, started_by=first) for wire in wires)
        return Group(Cell(out, network, "fp32", seed, first, kept), tuple(cells), teacher)

    teachers = {seed: group(TEACHER, seed) for seed in seeds}
    for seed in seeds:
        yield teachers[seed]
        yield from (group(network, seed) for network in (*SILENT, *NAMED, *searched()) if network != TEACHER)
    for seed in seeds:
        yield from (group(network + TAUGHT, seed, teachers[seed]) for network in searched()[-1:])
