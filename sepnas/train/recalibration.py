"""Batch-norm statistics of a network with other weights, such as one that was thinned, measured on training images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sepnas.nets.statistics import layers_with_statistics, recalibrate
from sepnas.spec.memory import images_at_once
from sepnas.train.images import ImageData

IMAGES = 1024
BATCH = 128


def recalibrate_on(network: nn.Module, data: ImageData, images: int = IMAGES) -> None:
    """Measure all statistics on some training images, spread evenly and not augmented; leaves the network evaluating.

    Batches have nearly the same size, because each counts alike.
    """
    count = min(images, len(data.train))
    places_N = torch.linspace(0, len(data.train) - 1, count).long()
    batches = -(-count // images_at_once(BATCH, data.image_size))
    place = next(network.parameters()).device

    def normalised() -> Iterator[Tensor]:
        for places in places_N.tensor_split(batches):
            yield data.normalise(data.train.images[places].to(place))

    recalibrate(layers_with_statistics(network), normalised(), network)
    network.eval()
