"""The trainings of the table: which there are, what each is, and what was found of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.nets.separable import SeparableResNeXt
from sepnas.plan.build import build_plan
from sepnas.plan.steps import Plan
from sepnas.spec.architecture import Architecture, named_policy
from sepnas.spec.document import write_text
from sepnas.spec.policy import Readout, TransmissionPolicy
from sepnas.spec.space import SearchSpace
from sepnas.spec.wire import WireFormat
from sepnas.train.checkpoint import new_network
from sepnas.train.images import ImageData
from sepnas.train.loop import train_network
from sepnas.train.recipe import Recipe
from sepnas.train.record import EpochRecord
from sepnas.train.threads import use_threads_for

HERE = Path(__file__).resolve().parent
SPACE = SearchSpace.load(HERE.parent.parent / "search_spaces" / "cifar-small-full.yaml")
RECIPE = HERE / "recipe.yaml"
SEARCHED = HERE / "searched"
"""Architectures that a search found, one for each budget of bytes (``pick.py``)."""
WIRES: tuple[WireFormat, ...] = ("fp32", "int8", "int4")
SILENT = ("not-separable", "one-device", "no-exchange")
"""Between their devices nothing crosses but logits: what a message is written in makes no difference."""
NAMED = ("all-to-all", "hand-made")


def searched() -> list[str]:
    return sorted(path.stem for path in SEARCHED.glob("*.json"))


def architecture_of(network: str, wire: WireFormat) -> Architecture:
    """A network of the table; its messages are written in ``wire``, a searched one's in ``own`` wires or in this."""
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
    return _named(largest, f"{network}-{wire}", largest.parts, _written_in(policy, wire))


def _named(like: Architecture, name: str, parts: Sequence[Any], policy: TransmissionPolicy) -> Architecture:
    data = like.to_data() | {"name": name, "parts": [each.model_dump() for each in parts], "policy": policy.to_data()}
    return Architecture.from_data(data, name)


def _written_in(policy: TransmissionPolicy, wire: WireFormat) -> TransmissionPolicy:
    points = tuple(
        point.model_copy(
            update={"transfers": tuple(each.model_copy(update={"wire": wire}) for each in point.transfers)}
        )
        for point in policy.points
    )
    return policy.model_copy(update={"points": points})


def elements(plan: Plan) -> int:
    """The numbers that cross between the devices for one image."""
    return sum(message.shape.num_values for message in plan.transfers())


@dataclass(frozen=True)
class Cell:
    """One training: a network, what its messages are written in, a seed."""

    out: Path
    network: str
    wire: WireFormat
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        wire = "" if self.network in SILENT else f"-{self.wire}"
        return f"{self.network}{wire}-s{self.seed}"

    @property
    def run(self) -> Path:
        return self.out / self.name

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.network, self.wire)

    def train(
        self, data: ImageData, device: str, threads: int | None, teachers: Sequence[SeparableResNeXt] = ()
    ) -> tuple[EpochRecord, ...]:
        """From its last checkpoint, if there is one, to its end; its epochs."""
        use_threads_for(self.architecture, threads)
        network = new_network(self.architecture, self.seed)
        return train_network(
            network, data, self.recipe, self.run, seed=self.seed, resume=True, device=device, progress=False,
            teachers=teachers,
        ).history  # fmt: skip

    def found(self) -> dict[str, Any] | None:
        """What :meth:`note` has kept."""
        path = self.run / "found.json"
        return json.loads(path.read_text()) if path.exists() else None

    def note(self, found: dict[str, Any]) -> None:
        write_text(self.run / "found.json", json.dumps(found, indent=2) + "\n")

    def costs(self) -> dict[str, Any]:
        """What it sends for one image, in bytes and in numbers, and the multiply-adds of one device."""
        plan = build_plan(self.architecture)
        macs = [sum(each.flops for each in device.values()) // 2 for device in plan.segments]
        return {"payload_bytes": plan.payload_bytes(), "elements": elements(plan), "macs_of_a_device": max(macs)}


def cells(out: Path, seeds: Sequence[int], recipe: Recipe) -> Iterator[Cell]:
    """All of them, a seed after the other; first what answers most."""
    for seed in seeds:
        for wire in WIRES:
            for network in (*SILENT, *NAMED, *searched()):
                if network not in SILENT or wire == "fp32":
                    yield Cell(out, network, wire, seed, recipe)
