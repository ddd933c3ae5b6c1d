"""Images for measuring the activations of an imported network, in batches, normalised as its traits say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sepnas.deploy.graph_export import graph_facts
from sepnas.errors import DataError
from sepnas.measure.evaluation.split_images import read_split
from sepnas.options import option
from sepnas.partition.graph import load_graph
from sepnas.runtime.client.images import normalise
from sepnas.train.source import DataSource

_FOLDER = "folder:"
_BATCH = 16


def samples_of(folder: Path, source: DataSource, count: int) -> Iterator[tuple[Tensor, ...]]:
    """At most ``count`` training images of a data set, in batches ``(B, C, H, W)``; those of a folder without splits.

    Raises :class:`DataError` for images that are missing, or a network that takes no images.
    """
    image = graph_facts(load_graph(folder)).image
    if image is None:
        raise DataError(
            f"{folder}: takes no images whose mean and standard deviation are known; leave {option('--data', 'data=')} "
            "out, or import the network with --mean and --std"
        )
    name = source.name or ""
    plain = name.startswith(_FOLDER) and not (Path(name.removeprefix(_FOLDER)).expanduser() / "train").is_dir()
    found = read_split(source, image, None if plain else "train").limited(count)
    for batch in found.batches(_BATCH):
        yield (torch.from_numpy(normalise(batch, image)),)
