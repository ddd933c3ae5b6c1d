"""The source of a training's or search's images; ``load`` is the first to read data or import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sepnas.errors import DataError
from sepnas.options import option
from sepnas.separable.architecture import Architecture
from sepnas.separable.space_network import NetworkSpace
from sepnas.spec.figures import Fit
from sepnas.units import format_count

if TYPE_CHECKING:
    from sepnas.train.images import ImageData


@dataclass(frozen=True)
class DataSource:
    """A data set by name, and the resizing of its images for the network.

    ``name`` is ``digits``, ``cifar10``, ``cifar100``, ``fashion-mnist`` or ``folder:PATH``; None means digits
    (see :meth:`named_for`). ``image_size`` is the side length in pixels.
    """

    name: str | None = None
    root: Path | None = None
    image_size: int | None = None
    resize: Fit = "stretch"
    download: bool = False

    def named_for(self, reads: Architecture | NetworkSpace | None, what: str) -> DataSource:
        """A copy with its name filled in: digits, if ``reads`` (None: any input) accepts them.

        Raises :class:`DataError` if a name is required; the message calls the network ``what``.
        """
        if self.name is not None:
            return self
        wanted = (1, self.image_size or 8, 10)
        if reads is None or (reads.in_channels, reads.image_size, reads.num_classes) == wanted:
            return replace(self, name="digits")
        raise DataError(
            f"no data set is named: {what} reads {format_count(reads.in_channels, 'channel')} of {reads.image_size} "
            f"pixels a side and knows {reads.num_classes} classes, so it does not fit the digits; name its images with "
            f"{option('--data', 'data=')}: digits, cifar10, cifar100, fashion-mnist or folder:PATH "
            "(PATH/train/CLASS/*.png, with val or test beside train)"
        )

    def load(self) -> ImageData:
        """Read the images into memory; raises :class:`DataError`."""
        from sepnas.train.data import load_dataset

        return load_dataset(
            self.name or "digits",
            root=self.root,
            image_size=self.image_size,
            resize=self.resize,
            download=self.download,
        )
