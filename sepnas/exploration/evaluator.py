"""The expensive half of evaluating a separation: its accuracy on validation images, without any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sepnas.exploration.knobs import Knobs
from sepnas.exploration.separations import Separations
from sepnas.nets.crossings import crossings_of
from sepnas.nets.trainable import TrainableGraph, load_trainable
from sepnas.objectives import ACCURACY
from sepnas.separable.space import Genotype
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData


def some_of_validation(data: ImageData, count: int, seed: int) -> ImageData:
    """The data with at most ``count`` validation images, drawn with ``seed``, in their order."""
    drawn = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(seed))[:count]
    return replace(data, val=data.val.take(drawn.sort().values))


class SeparationEvaluator:
    """Accuracies (0..1) on the validation images of ``data``, as `sepnas separate` measures them before training.

    Messages are rounded, and weights are fitted on the samples by which the network is separated.
    """

    def __init__(self, separations: Separations, data: ImageData) -> None:
        self.separations, self.data = separations, data

    def __call__(self, genotype: Genotype) -> dict[str, float]:
        """The accuracy of a separation, by its name as an objective."""
        of, (separation, thinned) = self.separations.of, self.separations.separation(Knobs.of(genotype))
        made = self.separations.network(separation, thinned)
        weights, crossings = of.weights_of(made), crossings_of(made.graph, made.plan())
        network = TrainableGraph(made.graph, of.fitted(made, weights, crossings), crossings)
        return {ACCURACY.name: self._accuracy(network)}

    def original(self, folder: Path) -> float:
        """The accuracy of the network in a folder on the same images."""
        return self._accuracy(load_trainable(folder))

    def _accuracy(self, network: TrainableGraph) -> float:
        network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accuracy(network, self.data.val, self.data, tick=lambda done, total: None)
