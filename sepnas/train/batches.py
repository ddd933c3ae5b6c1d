"""The batches of an epoch: images selected, augmented and normalised on the device, ready for a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sepnas.train.augment import augment
from sepnas.train.images import ImageData
from sepnas.train.mixing import Mixing
from sepnas.train.processes import Processes
from sepnas.train.recipe import Recipe
from sepnas.train.seeds import derived_seed

RESIDENT_BYTES = 8 << 30
"""Training sets up to this size are kept on the device; larger ones are moved batch by batch."""
_TOGETHER, _TOGETHER_BYTES = 8, 64 << 20
"""Number and bytes of the batches that AutoAugment processes at once; few images of one batch share a transform."""


class Batch(NamedTuple):
    """A process's part of a batch: images ``(B, C, H, W)``, labels or label shares; ``size`` of the whole batch.

    ``places`` ``(B,)`` are those of the images in the training split; ``mirrored`` ``(B,)`` says which are mirrored,
    None if that is not known.
    """

    images: Tensor
    labels: Tensor
    size: int
    places: Tensor
    mirrored: Tensor | None = None


class Batches:
    """Training batches of a data set under a recipe; yields this process's part of each batch."""

    def __init__(
        self, data: ImageData, recipe: Recipe, device: torch.device, processes: Processes | None = None
    ) -> None:
        self._processes = processes or Processes()
        self.steps = recipe.steps_per_epoch(len(data.train))
        self._data, self._recipe, self._device = data, recipe, device
        self._mixing = Mixing(recipe, data.num_classes) if recipe.mixup or recipe.cutmix else None
        resident = data.train.images.nbytes <= _room_bytes(device)
        self._images = data.train.images.to(device) if resident else data.train.images
        self._layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self._together = 1
        if recipe.augmentation.autoaugment != "none":
            batch_bytes = recipe.batch_size * data.train.images[0].nbytes
            self._together = max(1, min(_TOGETHER, _TOGETHER_BYTES // batch_bytes))

    def of(self, order: Tensor, seed: int, start: int = 0, mirrored_N: Tensor | None = None) -> Iterator[Batch]:
        """All images once in this order, in batches of nearly equal size, starting at batch number ``start``.

        ``mirrored_N`` says which images of the split are mirrored; without it, the augmentation draws them, if any.
        The random draws for a batch depend only on the seed and the batch number, not on ``start``.
        """
        parts = order.tensor_split(self.steps)
        for first in range(start - start % self._together, self.steps, self._together):
            together = parts[first : first + self._together]
            own = [self._processes.part(part) for part in together]
            places = torch.cat(own)
            chosen = self._images[places.to(self._images.device)].to(self._device)
            mirrored = None if mirrored_N is None else mirrored_N[places]
            augmented = augment(chosen, self._recipe.augmentation, _generator(seed, "changes", first), mirrored)
            images_of = torch.split(augmented, [len(part) for part in own])
            for number, (indices, images, whole) in enumerate(zip(own, images_of, together, strict=True), start=first):
                if number >= start:
                    labels = self._data.train.labels[indices].to(self._device)
                    images, labels = self._finished(images, labels, _generator(seed, "mixing", number))
                    yield Batch(
                        images, labels, len(whole), indices, None if mirrored_N is None else mirrored_N[indices]
                    )

    def _finished(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = self._data.normalise(images)
        if self._mixing:
            images, labels = self._mixing(images, labels, generator)
        return images.contiguous(memory_format=self._layout), labels


def alternately_mirrored(count: int, seed: int, epoch: int) -> Tensor:
    """Which of ``count`` images are mirrored in an epoch: each in every second one, half of them in each."""
    first_N = torch.randint(2, (count,), generator=_generator(seed, "mirrored", 0))
    return (first_N + epoch) % 2 == 1


def _room_bytes(device: torch.device) -> int:
    """Memory for training images: on a GPU at most half of the free memory, because the network needs the rest."""
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
    return min(free, RESIDENT_BYTES)


def _generator(seed: int, what: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, what, number))
