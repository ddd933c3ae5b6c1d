"""Data sets by name, with stable, stratified and disjoint splits.

==================  ============================================================================
``digits``          scikit-learn's 1,797 handwritten digits, 8x8, one channel; 60/20/20 percent
``cifar10``,        through torchvision; the test split is the published one, the validation
``cifar100``,       split is held out of the published training part
``fashion-mnist``
``folder:PATH``     images in ``PATH/train/CLASS/``, see :mod:`sepnas.train.folder`
==================  ============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sepnas.errors import DataError
from sepnas.options import option
from sepnas.spec.figures import Fit
from sepnas.spec.listing import shown_path
from sepnas.spec.memory import check_images_fit
from sepnas.train.folder import read_folder
from sepnas.train.images import ImageData, Split, channel_statistics
from sepnas.train.vision import import_torchvision

__all__ = ["DATA_SETS", "ImageData", "Split", "cache_folder", "load_dataset", "stratified_holdout"]

Parts = Mapping[str, Split]

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}
DATA_SETS = ("digits", *_TORCHVISION, "folder:PATH")

HELD_OUT_FRACTION = 0.1
"""Share of the training images that is held out for validation, where a data set has no validation images."""
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0
_RESIZE_BYTES = 64 << 20
"""Maximum size of the float images that are resized at a time."""


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    resize: Fit = "stretch",
    validation_fraction: float | None = None,
    seed: int = 0,
    download: bool = False,
) -> ImageData:
    """Load a data set into memory.

    ``root`` holds torchvision's files and the cache of decoded folders (default ``~/.cache/sepnas``).
    ``image_size`` resizes (bilinear): ``stretch`` uses the whole image, ``crop`` the centre square.
    ``validation_fraction`` is the share of the training part (for digits, of the whole set) held out for validation
    in each class; it defaults to 0.1, for digits to 0.2. A folder with both ``val`` and ``test`` needs none. ``seed``
    selects the held-out images; the test split does not depend on it.

    Raises :class:`DataError` if the data are missing or unusable; the message names the path.
    """
    if root is not None and not (download or name.startswith("folder:") or Path(root).expanduser().is_dir()):
        raise DataError(
            f"{root}: no such folder; name the folder of the data with {option('--data-root', 'root=')}, or create it "
            f"with {option('--download', 'download=True')}"
        )
    root = cache_folder() if root is None else Path(root).expanduser()
    usual = DIGITS_TEST_FRACTION if name == "digits" else HELD_OUT_FRACTION
    fraction = validation_fraction if validation_fraction is not None else usual
    if not 0 < fraction < (1 - DIGITS_TEST_FRACTION if name == "digits" else 1):
        raise DataError(f"`validation_fraction` must leave images to train on and to validate with, got {fraction}")
    if image_size is not None and image_size < 1:
        raise DataError(f"`image_size` must be at least 1, got {image_size}")
    if name == "digits":
        classes, parts = _digits()
        fraction /= 1 - DIGITS_TEST_FRACTION
    elif name in _TORCHVISION:
        classes, parts = _torchvision(name, root, download)
    elif name.startswith("folder:"):
        if not (path := name.removeprefix("folder:")):
            raise DataError(f"{name!r} names no folder; expected folder:PATH")
        if (shown := shown_path(name)) != name:
            raise DataError(f"{shown}: is not UTF-8, which a run's files are written in; rename it, or link to it")
        classes, parts = read_folder(Path(path), image_size, root / "folders", resize)
    else:
        raise DataError(f"unknown data set {name!r}; allowed: {', '.join(DATA_SETS)}")
    return _assemble(name, classes, parts, image_size, resize, fraction, seed)


def cache_folder() -> Path:
    """The folder ``sepnas`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sepnas"


def stratified_holdout(labels: Tensor, fraction: float, seed: int, names: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """The kept and the held-out indices, each sorted; holds out ``fraction`` of every class, rounded, at least one.

    Raises :class:`DataError` if a class has a single image; ``names`` are the class names for the message.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            name = names[label] if names else label
            raise DataError(f"class {name!r} has one training image; two are needed to hold one out for validation")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def _assemble(
    name: str,
    classes: tuple[str, ...],
    parts: Parts,
    image_size: int | None,
    resize: Fit,
    fraction: float,
    seed: int,
) -> ImageData:
    if image_size:
        count, channels = sum(map(len, parts.values())), parts["train"].images.shape[1]
        check_images_fit(
            count, channels, (image_size, image_size), 0 if "val" in parts else count, f"data set {name!r}: "
        )
    parts = {part: _resized(split, image_size) for part, split in parts.items()}
    train = parts["train"]
    if "val" not in parts:
        kept, held_out = stratified_holdout(train.labels, fraction, seed, classes)
        parts = {**parts, "train": train.take(kept), "val": train.take(held_out)}
    mean, std = channel_statistics(parts["train"].images)
    scaled = resize if image_size else None
    return ImageData(name, classes, parts["train"], parts["val"], parts["test"], mean, std, scaled)


def _resized(split: Split, image_size: int | None) -> Split:
    return split if image_size is None else Split(resize_images(split.images, image_size), split.labels)


def resize_images(images_NCHW: Tensor, side: int) -> Tensor:
    """Images in bytes as squares of ``side`` pixels (bilinear); the tensor itself if they are already."""
    if images_NCHW.shape[2:] == (side, side):
        return images_NCHW
    batches = [
        functional.interpolate(x.float(), (side, side), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for x in torch.split(images_NCHW, max(1, _RESIZE_BYTES // (4 * images_NCHW.shape[1] * side**2)))
    ]
    return torch.cat(batches)


def _digits() -> tuple[tuple[str, ...], Parts]:
    from sklearn.datasets import load_digits  # imported late: it takes a second, and only this data set needs it

    found = load_digits()
    images = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    whole = Split(images, torch.from_numpy(found.target.astype(np.int64)))
    kept, test = stratified_holdout(whole.labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    return tuple(str(digit) for digit in range(10)), {"train": whole.take(kept), "test": whole.take(test)}


def _torchvision(name: str, root: Path, download: bool) -> tuple[tuple[str, ...], Parts]:
    kind = getattr(import_torchvision("datasets"), _TORCHVISION[name])
    try:
        found = {part: kind(str(root), train=part == "train", download=download) for part in ("train", "test")}
    except (RuntimeError, OSError) as error:
        if download:
            raise DataError(f"data set {name!r} cannot be downloaded to {root}: {error}") from None
        raise DataError(
            f"data set {name!r} is missing or incomplete in {root}; fetch it with "
            f"{option('--download', 'download=True')}, or name its folder with {option('--data-root', 'root=')}"
        ) from None
    parts = {
        part: Split(_channels_first(torch.as_tensor(d.data)), torch.as_tensor(d.targets)) for part, d in found.items()
    }
    return tuple(found["train"].classes), parts


def _channels_first(images: Tensor) -> Tensor:
    return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
