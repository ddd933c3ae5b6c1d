"""Training images that grow: scaled down in the first epochs, at their full size in the last ones.

Small images take less time, and teach a young network nearly as much (progressive resizing: fast.ai, 2018;
arXiv 2104.00298). The last epochs are of full size, because a network answers best at the size that it was trained at
(arXiv 1906.06423); validation always is.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from torch import Tensor
from torch.nn import functional

from sepnas.errors import SpecError, TrainingError
from sepnas.separable.architecture import Architecture
from sepnas.train.recipe import Recipe

FULL_AT = Fraction(7, 10)
"""The share of the epochs after which images have their full size."""
PIXELS = 4
"""Sides below the full one are multiples of it, and of the stem's stride, so that networks halve them evenly."""


@dataclass(frozen=True)
class Sides:
    """The sides of a run's training images in pixels: they depend on the epoch alone.

    They grow from ``first``, a share of ``full``, by equal steps, rounded to a multiple of ``pixels``.
    """

    full: int
    first: float
    epochs: int
    pixels: int = PIXELS

    def of(self, epoch: int) -> int:
        """The side in an epoch, counted from 1."""
        growing = int(FULL_AT * self.epochs)
        if self.first == 1 or epoch > growing:
            return self.full
        share = self.first + (1 - self.first) * (epoch - 1) / growing
        return min(self.full, max(1, round(share * self.full / self.pixels)) * self.pixels)


def sides_of(recipe: Recipe, image_size: int, architecture: Architecture | None) -> Sides:
    """The sides of a run's training images, for a separable network or another one."""
    pixels = lcm(PIXELS, architecture.stem_stride) if architecture else PIXELS
    return Sides(image_size, recipe.first_size, recipe.epochs, pixels)


def scaled(images_BCHW: Tensor, side: int) -> Tensor:
    """Square float images with ``side`` pixels (bilinear, antialiased); images of this side stay as they are."""
    if images_BCHW.shape[-1] == side:
        return images_BCHW
    return functional.interpolate(images_BCHW, (side, side), mode="bilinear", antialias=True)


def smallest_of(recipe: Recipe, architecture: Architecture) -> Architecture:
    """The architecture for the smallest training images; raises :class:`TrainingError` if there can be none."""
    side = sides_of(recipe, architecture.image_size, architecture).of(1)
    try:
        return architecture.for_side(side)
    except SpecError as error:
        raise TrainingError(
            f"recipe {recipe.name!r}: `first_size` {recipe.first_size:g} makes images of {side} pixels a side, which "
            f"the network does not take: {error}; raise `first_size`"
        ) from None


def check_first_size(recipe: Recipe, separable: bool) -> None:
    """Raise :class:`TrainingError` if training images grow that the network or a teacher needs at one size."""
    if recipe.first_size == 1:
        return
    if not separable:
        raise TrainingError(
            f"recipe {recipe.name!r}: `first_size` is {recipe.first_size:g}, but only separable networks take images "
            "of several sizes, imported ones do not; set it to 1"
        )
    if recipe.distillation and recipe.distillation.features:
        raise TrainingError(
            f"recipe {recipe.name!r}: `first_size` {recipe.first_size:g} makes feature maps smaller than those of a "
            "teacher, with which `distillation.features` compares them; set `first_size` to 1, or `features` to 0"
        )
