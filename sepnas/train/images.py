"""A data set of images in memory: what the loaders make, and what training and evaluation read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sepnas.spec.figures import Fit


@dataclass(frozen=True, eq=False)
class Split:
    """Images ``(N, C, H, W)`` uint8 and their class numbers ``(N,)`` int64, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices``, in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class ImageData:
    """Three disjoint splits, the classes' names, and mean and deviation of each channel of ``train`` (of 0..1).

    ``resize`` is how images of another size were scaled to this one; None where none were to be.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Fit | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the content that trainings and searches see: images and labels of ``train`` and ``val``, in their order.

        However a data set's path is spelled, and wherever it is copied to, this stays the same.
        """
        return content_sha256(self.train, self.val)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width, which are equal."""
        return self.train.images.shape[2]

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """uint8 to float32, on the images' device: ``((x / 255) - mean) / std``, each step rounded to float32.

        The devices repeat it in numpy: the order of the operations, and mean and std as float32, are a contract.
        """
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
        return images_BCHW.float().div(255).sub(mean).div(std)


def content_sha256(*splits: Split) -> str:
    """Of images and labels, in their order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.contiguous().numpy().reshape(-1).data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


def channel_statistics(images_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values 0..1; summed in whole numbers, so the same everywhere."""
    count = images_NCHW.numel() // images_NCHW.shape[1]
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.int64)
    for channel in range(images_NCHW.shape[1]):
        histogram = torch.bincount(images_NCHW[:, channel].flatten(), minlength=256)
        total, squares = int((histogram * values).sum()), int((histogram * values * values).sum())
        means.append(total / count / 255)
        variance = max(squares * count - total * total, 0) / count**2
        # a channel of one value everywhere has nothing to scale
        deviations.append(variance**0.5 / 255 or 1.0)
    return tuple(means), tuple(deviations)
