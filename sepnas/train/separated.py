"""Fine-tuning of a separated network by distillation from the network that it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from sepnas.errors import TrainingError
from sepnas.nets.trainable import load_trainable
from sepnas.partition.graph import load_graph
from sepnas.spec.memory import images_at_once
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.recipe import NO_CHANGES, Recipe, RecipeChanges
from sepnas.train.record import TrainingResult
from sepnas.train.source import DataSource
from sepnas.train.training import RunOptions, choose_recipe
from sepnas.train.tuning import SEPARATED_RECIPE, GraphTraining, prepare_tuning

_BATCH = 16


@dataclass(frozen=True)
class Tuned:
    """A separated network that was fine-tuned; accuracies (0..1) on validation images, messages rounded.

    ``original_accuracy`` is that of the network that it was, ``start_accuracy`` its own before training.
    """

    original_accuracy: float
    start_accuracy: float
    training: TrainingResult


class SeparatedTuning:
    """The fine-tuning of what a network is separated into; all is read and checked before anything is separated.

    Raises :class:`TrainingError` (a recipe without distillation; data of other classes or sizes, too few for
    validation), ``DataError``.
    """

    def __init__(
        self,
        network: Path,
        source: DataSource,
        recipe: Recipe | str | None = None,
        changes: RecipeChanges = NO_CHANGES,
    ) -> None:
        self.network, self.recipe, self.changes = network, recipe, changes
        chosen = choose_recipe(recipe or SEPARATED_RECIPE, "", changes, None)
        if not chosen.distillation:
            raise TrainingError(
                f"recipe '{chosen.name}' has no `distillation`; a separated network learns from the original"
            )
        self.original: GraphTraining = prepare_tuning(network, _sized(source, network), recipe=recipe, changes=changes)

    @property
    def images(self) -> ImageData:
        return self.original.images

    def samples(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        """At most ``count`` training images, spread evenly, normalised, in batches."""
        found = self.images.train.images
        places = torch.linspace(0, len(found) - 1, min(count, len(found))).long()
        for each in torch.split(places, images_at_once(_BATCH, self.images.image_size)):
            yield (self.images.normalise(found[each]),)

    def run(self, start: Path, out: Path, *, threads: int | None = None, **options: Unpack[RunOptions]) -> Tuned:
        """Fine-tune the separated network in ``start``, and write the run's folder ``out``, separated alike.

        ``start`` may be moved once the run has begun (``on_begin``).
        """
        training = prepare_tuning(
            start, self.images, recipe=self.recipe, changes=self.changes, teachers=(self.network,)
        )
        original, begun = (self._accuracy(each) for each in (self.network, start))
        return Tuned(original, begun, training.run(out, threads=threads, **options))

    def _accuracy(self, folder: Path) -> float:
        network = load_trainable(folder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accuracy(network, self.images.val, self.images)


def _sized(source: DataSource, network: Path) -> DataSource:
    """Images of the size that the network takes, scaled as its own were."""
    if source.image_size is not None:
        return source
    graph = load_graph(network)
    side = graph.tensors[graph.inputs[0]].dims[-1]
    return replace(source, image_size=side, resize=graph.traits.resize or source.resize)
