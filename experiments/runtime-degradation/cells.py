"""The trainings of the comparison: which there are, where they lie, and what each is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import Readout
from sepnas.spec.document import write_text
from sepnas.train.checkpoint import new_network
from sepnas.train.images import ImageData
from sepnas.train.loop import train_network
from sepnas.train.recipe import RECIPES, Recipe

NUM_DEVICES = 4
IMAGE_SIZE = 16


def architecture() -> Architecture:
    """A narrow ResNeXt-20 over four devices, the paper's hand-made policy, the mean of all devices' logits."""
    found = named_architecture(
        "resnext20_4x8d", NUM_DEVICES, "hand-made", image_size=IMAGE_SIZE, stem_stride=2, output_channels=16
    )
    policy = found.policy.model_copy(update={"readout": Readout(kind="mean")})
    return found.model_copy(update={"policy": policy})


@dataclass(frozen=True)
class Cell:
    """One training: a seed and a share of lost devices."""

    out: Path
    seed: int
    dropout: float
    epochs: int

    @property
    def name(self) -> str:
        return f"seed{self.seed}-dropout{self.dropout:g}"

    @property
    def run(self) -> Path:
        return self.out / self.name

    def recipe(self) -> Recipe:
        data = RECIPES["cifar-sgd"].to_data() | {"epochs": self.epochs, "device_dropout": self.dropout}
        return Recipe.from_data(data, self.name)

    def train(self, data: ImageData) -> None:
        """From its last checkpoint, if there is one; nothing, where it has finished."""
        network = new_network(architecture(), self.seed)
        train_network(network, data, self.recipe(), self.run, seed=self.seed, resume=True, device="cpu")

    def noted(self, what: str) -> Any:
        """What :meth:`note` has kept, or None."""
        path = self.run / f"{what}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def note(self, what: str, found: Any) -> None:
        write_text(self.run / f"{what}.json", json.dumps(found, indent=2) + "\n")
