"""Checking the inputs of a request and bringing them into the form in which they are sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.deployment.network_facts import InputFacts
from sepnas.errors import DataError
from sepnas.plan.serial import shape_from_data
from sepnas.runtime.client.images import normalise
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.runtime.tensors.codec import Array, Images, is_image
from sepnas.spec.document import short

Inputs: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""A batch for the input of a network that has one, otherwise a batch for each input by name."""


def prepare_inputs(given: Inputs, facts: Mapping[str, InputFacts]) -> dict[str, Array | Images]:
    """A copy of each input as it is sent: float32 values, or images as bytes (uint8) if all images are given so.

    Raises :class:`DataError` for missing and unknown names, for another shape or type, for batches of different
    lengths, and for values that are not finite.
    """
    named = named_inputs(given, facts)
    arrays = {name: _prepared(f"input '{name}'", named[name], each) for name, each in facts.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of '{name}'" for name, length in lengths.items())
        raise DataError(f"all inputs must have the same number of samples, got {found}")
    return _in_one_form(arrays, facts)


def _in_one_form(arrays: dict[str, Array | Images], facts: Mapping[str, InputFacts]) -> dict[str, Array | Images]:
    """Images travel all as bytes or all normalised: with one that is normalised already, the others are too."""
    images = {name: each.image for name, each in facts.items() if each.image is not None}
    if all(is_image(arrays[name]) for name in images):
        return arrays
    return {name: normalise(array, images[name]) if is_image(array) else array for name, array in arrays.items()}


def named_inputs(given: Inputs, facts: Mapping[str, InputFacts]) -> Mapping[str, npt.ArrayLike]:
    """The inputs by name; raises :class:`DataError` unless these are the network's."""
    if not isinstance(given, Mapping):
        if len(facts) > 1:
            raise DataError(f"this network has {len(facts)} inputs, so a mapping is needed: {_wanted(facts)}")
        return dict.fromkeys(facts, given)
    _check_names(given.keys(), facts)
    return given


def _check_names(given: Collection[object], facts: Mapping[str, InputFacts]) -> None:
    for name in given:
        if name not in facts:
            raise DataError(f"the network has no input {short(str(name))}; its inputs are {_wanted(facts)}")
    for name in facts:
        if name not in given:
            raise DataError(f"input '{name}' is missing; the network's inputs are {_wanted(facts)}")


def _wanted(facts: Mapping[str, InputFacts]) -> str:
    return ", ".join(f"'{name}' ({shape_from_data(each.shape)})" for name, each in facts.items())


def _prepared(what: str, given: npt.ArrayLike, facts: InputFacts) -> Array | Images:
    batch, wanted = _as_array(what, given), facts.shape.dims
    if batch.shape[1:] != wanted or not batch.ndim or not 1 <= len(batch) <= MAX_BATCH:
        sizes = "".join(f", {size}" for size in wanted)
        raise DataError(f"{what}: a batch must have the shape (1..{MAX_BATCH}{sizes or ','}), got {batch.shape}")
    if facts.image is not None and batch.dtype == np.uint8:
        return batch.astype(np.uint8)  # a copy: the caller may fill the same array with the next batch
    if batch.dtype != np.float32:
        allowed = "float32" if facts.image is None else "float32 (normalised) or uint8 (images)"
        raise DataError(f"{what}: a batch must be {allowed}, got {batch.dtype}")
    _check_finite(what, "sample" if facts.image is None else "image", batch)
    return batch.astype(np.float32)


def _as_array(what: str, given: npt.ArrayLike) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # unequal lists, tensors with gradients, and the like
        raise DataError(f"{what}: {type(given).__name__} is not an array of numbers: {error}") from None


def _check_finite(what: str, noun: str, batch: npt.NDArray[np.generic]) -> None:
    finite = np.isfinite(batch)
    if not finite.all():
        index = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise DataError(
            f"{what}: {noun} {index[0]} of the batch has {batch[index]} at {index[1:]}; expected finite numbers"
        )
