"""A first convolution that whitens patches of the training images, as in airbench (K. Jordan, arXiv 2404.00498)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import TrainingError
from sepnas.train.images import ImageData

IMAGES = 5_000
_SMALLEST = 5e-4
"""Added to eigenvalues, for images of values of variance 1: directions without content are not blown up."""


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """The network's first convolution; raises :class:`TrainingError` if there is none."""
    found = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    if found is None:
        raise TrainingError("`whiten_stem`: the network has no convolution")
    return found


def freeze_first_convolution(network: nn.Module, data: ImageData | None) -> None:
    """Let training leave the first convolution as it is, after whitening if ``data`` are given."""
    if data is not None:
        whiten_first_convolution(network, data)
    first_convolution(network).requires_grad_(False)


@torch.no_grad()
def whiten_first_convolution(network: nn.Module, data: ImageData) -> None:
    """Set the first convolution to the largest eigenvectors of its patches, scaled to variance 1, and their negatives.

    A vector and its negative lie side by side, so that a narrower network has whole pairs. Channels beyond all vectors
    are 0. Raises :class:`TrainingError` unless the convolution reads the image.
    """
    conv = first_convolution(network)
    if conv.in_channels != data.in_channels or conv.groups != 1:
        raise TrainingError(
            f"`whiten_stem`: the first convolution takes {conv.in_channels} channels in {conv.groups} groups, images "
            f"of {data.name!r} have {data.in_channels}"
        )
    count = min(IMAGES, len(data.train))
    places = torch.linspace(0, len(data.train) - 1, count).long()
    images = data.normalise(data.train.images[places]).float()
    vectors_KP, sizes_K = _eigenvectors(images, (conv.kernel_size[0], conv.kernel_size[1]))
    kept = min(conv.out_channels // 2, len(sizes_K))
    scaled = vectors_KP[:kept] / (sizes_K[:kept, None] + _SMALLEST).sqrt()
    weight = torch.zeros(conv.out_channels, scaled.shape[1])
    weight[0 : 2 * kept : 2], weight[1 : 2 * kept : 2] = scaled, -scaled
    conv.weight.copy_(weight.view_as(conv.weight))


def _eigenvectors(images_BCHW: Tensor, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The eigenvectors of the covariance of all patches, as rows, and their eigenvalues, the largest first."""
    patches_BPL = functional.unfold(images_BCHW, kernel)
    patches = patches_BPL.transpose(1, 2).reshape(-1, patches_BPL.shape[1]).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return vectors.flip(1).T.float(), values.flip(0).float()
