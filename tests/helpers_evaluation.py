"""A run, an imported network and images for them, without a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.separable import SeparableNetwork
from sepnas.partition.graph import GRAPH_NAME, WEIGHTS_NAME, NetworkTraits
from sepnas.spec.dataset import DataFacts
from sepnas.train.checkpoint import ARCHITECTURE, BEST, DATA, write_checkpoint
from tests.helpers_runtime import NUM_CLASSES

CLASSES = tuple(f"class {index}" for index in range(NUM_CLASSES))


def make_images(root: Path, names: tuple[str, ...] = CLASSES, count: int = 4, side: int = 8, mode: str = "L") -> Path:
    """A folder of class folders with ``count`` different images each."""
    numbers = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = numbers.integers(0, 256, (side, side) if mode == "L" else (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def write_run(network: SeparableNetwork, run: Path, data: str) -> Path:
    """The files of a run whose best epoch is ``network``, normalised as ``export_tiny`` says."""
    run.mkdir()
    network.architecture.save(run / ARCHITECTURE)
    DataFacts(name=data, classes=CLASSES, mean=(0.25,), std=(0.5,)).save(run / DATA)
    write_checkpoint(run / BEST, network.state_dict(), {})
    return run


def write_imported(network: PartitionedNetwork, folder: Path) -> Path:
    """A graph's folder, as `sepnas import` writes it; its network reads images in 0..1."""
    from safetensors.torch import save_file

    folder.mkdir()
    channels = network.graph.tensors[network.graph.inputs[0]].dims[1]
    traits = NetworkTraits(mean=(0.0,) * channels, std=(1.0,) * channels)
    network.graph.model_copy(update={"traits": traits}).save(folder / GRAPH_NAME)
    save_file(network.weights_by_name, folder / WEIGHTS_NAME)
    return folder
