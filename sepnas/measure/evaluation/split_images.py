"""The images of a split in the form that a network reads, batch by batch, with the indices of its classes."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sepnas.console import warn
from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError
from sepnas.measure.evaluation.folder_split import folder_split
from sepnas.measure.evaluation.scores import Indices
from sepnas.measure.machine import usable_cores
from sepnas.runtime.client.images import read_image
from sepnas.spec.dataset import DataFacts
from sepnas.spec.evaluation import EvaluatedSplit, SplitChoice
from sepnas.spec.image_file import MODES, Images, Resize, read_head
from sepnas.spec.listing import listed, shown_path
from sepnas.train.checkpoint import DATA
from sepnas.train.data import load_dataset
from sepnas.train.display import track
from sepnas.train.images import ImageData, Split
from sepnas.train.source import DataSource

_FOLDER = "folder:"
_AHEAD = 2
"""Batches that are read while others are computed."""


@dataclass(frozen=True)
class SplitImages:
    """``labels`` are places in ``classes``, the data set's own; ``read`` gives images ``(C, H, W)`` by their place.

    ``files`` are those of a folder's images.
    """

    name: str
    split: EvaluatedSplit
    classes: tuple[str, ...]
    labels: Indices
    read: Callable[[int], Images]
    num_in_split: int
    files: tuple[Path, ...] = ()

    def limited(self, count: int | None) -> SplitImages:
        """At most ``count`` of the images, spread evenly over the split."""
        if count is None or count >= len(self.labels):
            return self
        places = np.linspace(0, len(self.labels), count, endpoint=False).astype(np.int64)
        files = tuple(self.files[place] for place in places) if self.files else ()
        return replace(self, labels=self.labels[places], read=lambda place: self.read(int(places[place])), files=files)

    def check_files(self) -> None:
        """Read the heads of all files: finds most bad ones before anything is computed; raises :class:`DataError`."""
        problems = []
        for path in track(self.files, "checking images"):
            try:
                read_head(path, shown_path(path))
            except DataError as error:
                problems.append(error)
        if problems:
            raise DataError(listed(problems, f"{len(problems):,} of {len(self.files):,} images cannot be used"))

    def batches(self, size: int) -> Iterator[Images]:
        """The images in order, ``(B, C, H, W)`` uint8; raises :class:`DataError` that names a bad file."""
        with ThreadPoolExecutor(usable_cores() if self.files else 1) as pool:
            begun: deque[list[Future[Images]]] = deque()
            try:
                for start in range(0, len(self.labels), size):
                    places = range(start, min(start + size, len(self.labels)))
                    begun.append([pool.submit(self.read, place) for place in places])
                    if len(begun) > _AHEAD:
                        yield _stacked(begun.popleft())
                while begun:
                    yield _stacked(begun.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _stacked(batch: Sequence[Future[Images]]) -> Images:
    return np.stack([each.result() for each in batch])


def images_for(
    folder: Path, kind: str, source: DataSource, wanted: ImageInput, split: SplitChoice | None, resize: Resize | None
) -> SplitImages:
    """The images to evaluate a network with; those that a run was trained on are split as in training.

    Raises :class:`DataError`.
    """
    if kind != "run":
        return read_split(source, wanted, split, resize)
    facts = DataFacts.load(folder / DATA)
    if source.name not in (None, facts.name):
        return read_split(source, wanted, split, resize)
    data = load_dataset(
        facts.name, root=source.root, image_size=wanted.height, resize=facts.resize or "stretch",
        download=source.download,
    )  # fmt: skip
    if facts.content_sha256 not in (None, data.sha256):
        warn(
            f"{data.name}: its images differ from those that {folder} was trained on, so those of this split may have "
            "been trained on"
        )
    return from_data(data, wanted, split or "validation")


def read_split(
    source: DataSource, wanted: ImageInput, split: SplitChoice | None, resize: Resize | None = None
) -> SplitImages:
    """The images of a named data set or of a folder of class folders, for a network that reads ``wanted``.

    Images are prepared as `sepnas infer` prepares them. Raises :class:`DataError`.
    """
    assert source.name is not None
    if source.name.startswith(_FOLDER) and source.name != _FOLDER:
        return _from_folder(source.name, wanted, split, resize)
    own = wanted.preparation is not None or wanted.height != wanted.width
    side = None if own else wanted.height
    data = load_dataset(
        source.name, root=source.root, image_size=side, resize=wanted.resize or "stretch", download=source.download
    )
    return from_data(data, wanted, split or "validation")


def from_data(data: ImageData, wanted: ImageInput, split: SplitChoice) -> SplitImages:
    """A split of a data set in memory, whose images are prepared by the network's configuration if it has one."""
    if data.in_channels != wanted.channels:
        raise DataError(
            f"data {data.name}: its images have {data.in_channels} channels, the network takes {wanted.channels}"
        )
    part: Split = {"train": data.train, "validation": data.val, "test": data.test}[split]
    images = part.images.numpy()
    fits = images.shape[2:] == (wanted.height, wanted.width)

    def read(place: int) -> Images:
        return images[place] if fits else _prepared(images[place], f"{data.name}: image {place}", wanted)

    return SplitImages(data.name, split, data.classes, part.labels.numpy(), read, len(part))


def _prepared(image_CHW: Images, name: str, wanted: ImageInput) -> Images:
    """An image in memory, prepared like a file of it."""
    from PIL import Image

    file = io.BytesIO()
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    file.seek(0)
    return read_image(file, name, wanted)


def _from_folder(name: str, wanted: ImageInput, split: SplitChoice | None, resize: Resize | None) -> SplitImages:
    if shown_path(name) != name:
        raise DataError(
            f"{shown_path(name)}: is not UTF-8, which an evaluation is written in; rename it, or link to it"
        )
    if wanted.channels not in MODES:
        raise DataError(f"data {name}: image files have 1 or 3 channels, but this network reads {wanted.channels}")
    found = folder_split(Path(name.removeprefix(_FOLDER)).expanduser(), split)
    labels = np.array(found.labels, np.int64)

    def read(place: int) -> Images:
        path = found.files[place]
        return read_image(path, shown_path(path), wanted, resize)

    return SplitImages(name, found.split, found.classes, labels, read, len(labels), found.files)
