"""An image data set in memory, as made by the loaders and read by training and evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sepnas.spec.figures import Fit


@dataclass(frozen=True, eq=False)
class Split:
    """Images ``(N, C, H, W)`` uint8 and their class indices ``(N,)`` int64, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices``, in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class ImageData:
    """Three disjoint splits, the class names, and the mean and standard deviation per channel of ``train`` (in 0..1).

    ``resize`` is the method that scaled images of other sizes to this one; None if no resizing was requested.
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
        """A digest of the content that trainings and searches see: ``train`` and ``val`` images and labels, in order.

        It does not depend on the data set's path.
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
        """Height and width (equal), in pixels."""
        return self.train.images.shape[2]

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """uint8 to float32 on the images' device: ``((x / 255) - mean) / std``, each operation rounded to float32.

        Devices repeat this in numpy, so the order of operations and float32 mean and std are a contract.
        """
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_BCHW.device).view(-1, 1, 1)
        return images_BCHW.float().div(255).sub(mean).div(std)


def content_sha256(*splits: Split) -> str:
    """A digest of images and labels, in order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.contiguous().numpy().reshape(-1).data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


def channel_statistics(images_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of values in 0..1; integer sums make them the same on every machine."""
    count = images_NCHW.numel() // images_NCHW.shape[1]
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.int64)
    for channel in range(images_NCHW.shape[1]):
        histogram = torch.bincount(images_NCHW[:, channel].flatten(), minlength=256)
        total, squares = int((histogram * values).sum()), int((histogram * values * values).sum())
        means.append(total / count / 255)
        variance = max(squares * count - total * total, 0) / count**2
        # a constant channel needs no scaling
        deviations.append(variance**0.5 / 255 or 1.0)
    return tuple(means), tuple(deviations)
