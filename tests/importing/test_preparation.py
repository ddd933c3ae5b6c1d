"""Images are prepared as a network's own configuration says: the pixels are those of timm's and torchvision's."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sepnas.errors import DataError
from sepnas.importing.libraries import from_timm, from_torchvision
from sepnas.partition.graph import NetworkTraits
from sepnas.spec.image_file import read_image
from sepnas.spec.preparation import Preparation
from sepnas.train.vision import import_timm, import_torchvision

SIZES = ((500, 375), (375, 500), (160, 1000), (224, 224), (65, 64))
"""Widths and heights of files: wide, high, very wide, as the network reads them, and smaller."""


def photo(width: int, height: int) -> Image.Image:
    """An image with noise, which any shift of a pixel changes."""
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def prepared(image: Image.Image, way: Preparation, size: tuple[int, int]) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return read_image(buffer, "it", 3, size, way)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((224, 224), {"crop_pct": 0.875, "interpolation": "bicubic"}),
        ((224, 224), {"crop_pct": 0.9, "interpolation": "bilinear"}),
        ((240, 240), {"crop_pct": 1.0, "interpolation": "lanczos"}),
        ((96, 96), {"crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "squash"}),
        ((128, 96), {"crop_pct": 0.9, "interpolation": "bilinear"}),
        ((97, 97), {"crop_pct": 1.15, "interpolation": "nearest"}),
    ],
)
def test_pixels_are_those_of_timm(size: tuple[int, int], options: dict[str, Any]) -> None:
    """Whatever the crop, the interpolation, the mode and the size, and for images smaller than the network's too."""
    import_timm("data")
    factory: Any = importlib.import_module("timm.data.transforms_factory")
    theirs = factory.transforms_imagenet_eval(img_size=size, normalize=False, **options)
    fit = "stretch" if options.get("crop_mode") == "squash" else "cover"
    traits = NetworkTraits(crop=options["crop_pct"], interpolation=options["interpolation"], fit=fit)
    way = traits.preparation(*size)
    assert way is not None
    for width, height in SIZES:
        image = photo(width, height)
        np.testing.assert_array_equal(prepared(image, way, size), theirs(image).numpy(), f"{width}x{height}")


def test_pixels_are_those_of_torchvision() -> None:
    """A size that torchvision gives in pixels is found again, not one pixel less, for each of its classifiers."""
    models: Any = import_torchvision("models")
    found = set()
    for name in models.list_models(module=models):
        known = models.get_model_weights(name).DEFAULT.transforms()
        side, scaled = known.crop_size[0], known.resize_size[0]
        from sepnas.importing.libraries import _share

        way = NetworkTraits(crop=_share(side, scaled), interpolation="bilinear").preparation(side, side)
        assert way is not None
        assert (way.height, way.width) == (scaled, scaled), name
        found.add((side, scaled))
    assert len(found) > 10
    functional: Any = import_torchvision("transforms.functional")
    way = Preparation(fit="cover", height=232, width=232, interpolation="bilinear")
    for width, height in SIZES:
        image = photo(width, height)
        wanted = functional.pil_to_tensor(functional.center_crop(functional.resize(image, [232]), [224])).numpy()
        np.testing.assert_array_equal(prepared(image, way, (224, 224)), wanted, f"{width}x{height}")


def test_libraries_configurations_are_taken() -> None:
    """Crop, interpolation, mode and class names come from the configuration of the network that was asked for."""
    traits = from_timm("tf_efficientnet_lite0", False).traits
    assert (traits.crop, traits.interpolation, traits.fit) == (0.875, "bicubic", "cover")
    assert (len(traits.classes), traits.classes[0], traits.mean[0]) == (1000, "tench, Tinca tinca", 0.5)
    way = from_torchvision("mnasnet0_5", False).traits.preparation(224, 224)
    assert way == Preparation(fit="cover", height=256, width=256, interpolation="bilinear")


def test_an_image_of_extreme_proportions_is_refused() -> None:
    """A file of a few bytes cannot be scaled to gigabytes of pixels."""
    way = Preparation(fit="cover", height=256, width=256, interpolation="bilinear")
    with pytest.raises(DataError, match=r"it: is 300000x1 pixels, which .* scales to 76800000x256; at most"):
        prepared(Image.new("RGB", (300_000, 1)), way, (224, 224))
