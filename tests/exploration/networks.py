"""A small network that knows the digits, as an imported one, and its explorations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from sepnas import api
from sepnas.exploration.run import ExplorationResult
from sepnas.nets.trainable import TrainableGraph
from sepnas.partition.graph import NetworkTraits
from sepnas.testing.graphs import Builder
from sepnas.train.data import load_dataset
from tests.importing.test_separate import imported
from tests.separation.networks import Small

STEPS = 120


def trained_on_digits(folder: Path) -> Path:
    """The folder of three convolutions and a classifier, trained for a second."""
    torch.manual_seed(0)
    made = Builder(1, 8, 8)
    for channels in (8, 12, 12):
        made.conv(channels, 3, padding=(1, 1), bias=False)
        made.norm()
        made.then("relu")
    made.head(10)
    graph = made.graph().model_copy(update={"traits": NetworkTraits(mean=(0.5,), std=(0.5,), size=(8, 8))})
    network, data = TrainableGraph(graph, made.weights).train(), load_dataset("digits").train
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(STEPS):
        drawn = torch.randint(len(data), (128,))
        x = (data.images[drawn] / 255 - 0.5) / 0.5
        loss = functional.cross_entropy(network(x), data.labels[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return imported(Small(graph, network.weights_by_name), folder)


def explore(network: Path, out: Path, **changes: Any) -> ExplorationResult:
    """An exploration over two devices, of few images."""
    settings = {"devices": 2, "candidates": 16, "images": 48, "val_images": 100, "progress": False, "threads": 1}
    return api.explore(network, out, "digits", **{**settings, **changes})  # type: ignore[arg-type]
