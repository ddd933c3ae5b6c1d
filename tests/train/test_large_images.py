"""Training on large images: the random resized crop, the default recipes, and batches that fit into memory."""

from __future__ import annotations

import pytest
import torch

from sepnas.errors import SpecError
from sepnas.search.run import LARGE_BATCH, supernet_recipe
from sepnas.spec.memory import BATCH_PIXELS, images_at_once
from sepnas.train.augment import augment, resized_crop
from sepnas.train.images import ImageData, Split
from sepnas.train.recipe import LARGE_SIDE, RECIPES, Augmentation, Recipe, default_recipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(count: int, side: int) -> torch.Tensor:
    """Images whose two channels are the row and the column of each pixel."""
    line = torch.arange(side, dtype=torch.uint8)
    return torch.stack([line[:, None].expand(side, side), line[None].expand(side, side)]).expand(count, -1, -1, -1)


def test_a_resized_crop_is_a_part_of_the_image() -> None:
    """Each crop has the wanted share of the image at least, lies within it, has its order, and fills the size."""
    cropped = resized_crop(places(200, 96), 0.35, seeded()).float()
    assert cropped.shape == (200, 2, 96, 96)
    assert (cropped[:, 0].diff(dim=1) >= 0).all()
    assert (cropped[:, 1].diff(dim=2) >= 0).all()
    heights, widths = (cropped[:, axis].flatten(1).max(1)[0] - cropped[:, axis].flatten(1).min(1)[0] for axis in (0, 1))
    areas = (heights + 2) * (widths + 2) / 96**2  # half a pixel on each side is not seen, and rounding
    assert 0.34 < areas.min() < 0.42
    assert areas.max() > 0.9
    assert 0.7 < (widths / heights).min() < 0.85
    assert cropped.amin() <= 1
    assert cropped.amax() >= 94


def test_the_generator_determines_the_crop() -> None:
    """The same generator gives the same crops, another one others, and each image has its own; types are kept."""
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    changes = Augmentation(crop_area=0.5, flip=True)
    first, second, other = (augment(images, changes, seeded(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.equal(second)
    assert not first.equal(other)
    alike = augment(images[:1].expand(4, -1, -1, -1), changes, seeded())
    assert len({image.numpy().tobytes() for image in alike}) == 4


def test_a_recipe_without_a_crop_by_area_is_written_as_before() -> None:
    """Older runs are described by the same data; a recipe with the crop is read again, and one with both is refused."""
    assert "crop_area" not in RECIPES["cifar-fast"].to_data()["augmentation"]
    large = RECIPES["large-images"]
    assert Recipe.from_data(large.to_data()) == large
    assert large.to_data()["augmentation"]["crop_area"] == 0.35
    with pytest.raises(SpecError, match=r"`crop_padding` 4 and `crop_area` 0\.5 exclude each other"):
        Recipe.from_data({"epochs": 1, "augmentation": {"crop_padding": 4, "crop_area": 0.5}})


def test_large_images_have_a_recipe_of_their_own() -> None:
    """From 128 pixels a side; digits and folders are not mirrored, whatever their size."""
    assert default_recipe("cifar100", LARGE_SIDE - 1).name == "cifar-fast"
    assert default_recipe("cifar100", LARGE_SIDE) == RECIPES["large-images"]
    for name in ("digits", "folder:photographs"):
        found = default_recipe(name, 224)
        assert (found.name, found.augmentation.flip) == ("large-images", False)
    assert default_recipe("folder:photographs").name == "cifar-fast"


def test_the_supernet_crops_large_images_too() -> None:
    """Its default recipe takes smaller batches of them."""
    split = Split(torch.zeros(2, 1, LARGE_SIDE, LARGE_SIDE, dtype=torch.uint8), torch.tensor([0, 1]))
    found = supernet_recipe(ImageData("folder:x", ("a", "b"), split, split, split, (0.5,), (0.5,)), None)
    assert (found.augmentation, found.batch_size) == (Augmentation(crop_area=0.35), LARGE_BATCH)


@pytest.mark.parametrize(("side", "count"), [(8, 512), (90, 512), (224, 83), (8192, 1)])
def test_fewer_large_images_are_computed_at_a_time(side: int, count: int) -> None:
    """Batches keep their size up to 90 pixels a side, and have at least one image."""
    assert images_at_once(512, side) == count
    assert count * side**2 <= BATCH_PIXELS or count == 1
