"""Random augmentation of batches of training images on their device, fully determined by a generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sepnas.errors import TrainingError
from sepnas.train.auto_augment import auto_augment
from sepnas.train.images import ImageData
from sepnas.train.recipe import Augmentation

_MAX_RATIO = 4 / 3


def check_augmentation(augmentation: Augmentation, data: ImageData) -> None:
    """Raise :class:`TrainingError` if the augmentation does not suit the images."""
    if augmentation.crop_padding >= data.image_size:
        raise TrainingError(
            f"the recipe's `crop_padding` {augmentation.crop_padding} shifts images of {data.image_size} pixels a "
            f"side out of sight; it must be below {data.image_size}"
        )
    if augmentation.autoaugment != "none":
        if data.in_channels not in (1, 3):
            raise TrainingError(f"`autoaugment` needs images of 1 or 3 channels, {data.name!r} has {data.in_channels}")
        auto_augment(augmentation.autoaugment)


def augment(
    images_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator, mirrored_B: Tensor | None = None
) -> Tensor:
    """Augment uint8 images, keeping type and shape; a CPU ``generator`` makes the draws the same on all devices.

    ``mirrored_B`` names the images that are mirrored, in place of the augmentation's own draw.
    """
    if mirrored_B is not None:
        images_BCHW = torch.where(
            mirrored_B.to(images_BCHW.device)[:, None, None, None], images_BCHW.flip(3), images_BCHW
        )
        augmentation = augmentation.model_copy(update={"flip": False})
    if augmentation.crop_area < 1:
        images_BCHW = resized_crop(images_BCHW, augmentation.crop_area, generator)
    if augmentation.crop_padding or augmentation.flip:
        images_BCHW = crop_and_flip(
            images_BCHW, augmentation.crop_padding, augmentation.padding == "reflect", augmentation.flip, generator
        )
    if augmentation.autoaugment != "none":
        images_BCHW = auto_augment(augmentation.autoaugment)(images_BCHW, generator)
    return images_BCHW


def crop_and_flip(images_BCHW: Tensor, padding: int, reflect: bool, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels either way, and mirror it with probability 1/2.

    One gather does both, without a padded copy. ``padding`` must be smaller than the images.
    """
    batch, channels, height, width = images_BCHW.shape
    rows_BH, rows_ok = _shifted(batch, height, padding, reflect, generator)
    columns_BW, columns_ok = _shifted(batch, width, padding, reflect, generator)
    if flip:
        mirrored_B1 = torch.rand(batch, 1, generator=generator) < 0.5
        columns_BW = torch.where(mirrored_B1, columns_BW.flip(1), columns_BW)
        columns_ok = torch.where(mirrored_B1, columns_ok.flip(1), columns_ok)
    device = images_BCHW.device
    places_BHW = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).to(device)
    places = places_BHW.view(batch, 1, height * width).expand(-1, channels, -1)
    moved = images_BCHW.flatten(2).gather(2, places).view_as(images_BCHW)
    if padding and not reflect:
        inside_BHW = (rows_ok[:, :, None] & columns_ok[:, None, :]).to(device)
        moved = moved * inside_BHW[:, None]
    return moved


def resized_crop(images_BCHW: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """A random crop of each image, of at least ``smallest`` of its area, scaled to the image's size (bilinear).

    Its width is 3/4 to 4/3 of its height, except where that would reach beyond the image.
    """
    area_B, ratio_B, right_B, down_B = torch.rand(4, len(images_BCHW), generator=generator)
    area_B = smallest + (1 - smallest) * area_B
    ratio_B = torch.exp((2 * ratio_B - 1) * math.log(_MAX_RATIO))
    width_B, height_B = ((area_B * each).sqrt().clamp(max=1) for each in (ratio_B, 1 / ratio_B))
    none_B = torch.zeros_like(area_B)
    left_B, top_B = (1 - width_B) * (2 * right_B - 1), (1 - height_B) * (2 * down_B - 1)
    places_B23 = torch.stack([width_B, none_B, left_B, none_B, height_B, top_B], 1).view(-1, 2, 3)
    grid_BHW2 = functional.affine_grid(places_B23.to(images_BCHW.device), list(images_BCHW.shape), align_corners=False)
    cropped = functional.grid_sample(images_BCHW.float(), grid_BHW2, padding_mode="border", align_corners=False)
    return cropped.round_().clamp_(0, 255).byte()


def _shifted(batch: int, size: int, padding: int, reflect: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each image, the source index ``(B, size)`` of each row or column, and whether it is inside the image."""
    offset_B1 = torch.randint(-padding, padding + 1, (batch, 1), generator=generator)
    position = torch.arange(size) + offset_B1
    inside = (position >= 0) & (position < size)
    if reflect:
        position = position.abs()
        return size - 1 - (size - 1 - position).abs(), inside
    return position.clamp(0, size - 1), inside
