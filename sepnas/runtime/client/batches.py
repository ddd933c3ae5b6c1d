"""Checking a batch and bringing it into the form in which it is sent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.runtime.tensors.codec import Array, Images


def prepare_batch(batch_BCHW: npt.NDArray[np.generic], image: ImageInput) -> Array | Images:
    """A copy of a batch of images (uint8) or of normalised values (float32), as it is sent.

    Raises :class:`DataError` for another shape or type, and for values that are not finite.
    """
    wanted = image.dims
    if batch_BCHW.ndim != 4 or batch_BCHW.shape[1:] != wanted or not 1 <= len(batch_BCHW) <= MAX_BATCH:
        raise DataError(f"a batch must have the shape (1..{MAX_BATCH}, {str(wanted)[1:]}, got {batch_BCHW.shape}")
    if batch_BCHW.dtype == np.uint8:
        return batch_BCHW.astype(np.uint8)  # a copy: the caller may fill the same array with the next batch
    if batch_BCHW.dtype != np.float32:
        raise DataError(f"a batch must be float32 (normalised) or uint8 (images), got {batch_BCHW.dtype}")
    _check_finite(batch_BCHW)
    return batch_BCHW.astype(np.float32)


def _check_finite(batch_BCHW: npt.NDArray[np.generic]) -> None:
    finite = np.isfinite(batch_BCHW)
    if not finite.all():
        index = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise DataError(
            f"image {index[0]} of the batch has {batch_BCHW[index]} at {index[1:]}; expected finite numbers"
        )
