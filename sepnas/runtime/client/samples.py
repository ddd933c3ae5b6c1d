"""Samples from files: images in the form that the network reads, and tensors by the names of its inputs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sepnas.deployment.network_facts import NetworkFacts
from sepnas.errors import DataError
from sepnas.plan.serial import shape_from_data
from sepnas.runtime.client.images import read_images
from sepnas.runtime.client.inputs import named_inputs, prepare_inputs
from sepnas.spec.image_file import Resize
from sepnas.spec.tensor_file import Tensor, is_tensor_file, read_tensor_file


@dataclass(frozen=True)
class Sample:
    """One sample of each input, without a batch axis; ``name``: its file, and its place in it if that holds several."""

    name: str
    inputs: dict[str, npt.NDArray[Any]]


def read_samples(
    paths: Sequence[str | os.PathLike[str]], network: NetworkFacts, resize: Resize | None = None
) -> list[list[Sample] | DataError]:
    """Of each file the samples, or the error that names its problem.

    A ``.npy`` file holds the input of a network that has one, and a ``.npz`` file each input by name; both one sample,
    or a batch. Every other file is an image, for a network that takes nothing else.
    """
    images = [path for path in paths if not is_tensor_file(path)]
    read = iter(_read_images(images, network, resize))
    return [_read_tensors(path, network) if is_tensor_file(path) else next(read) for path in paths]


def batches_of(samples: Sequence[Sample], max_batch: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The samples in order as batches by name, of at most ``max_batch`` samples of equal types each."""

    def types(sample: Sample) -> list[object]:
        return [array.dtype for array in sample.inputs.values()]

    for _, run in itertools.groupby(samples, types):
        alike = list(run)
        for start in range(0, len(alike), max_batch):
            part = alike[start : start + max_batch]
            yield {name: np.stack([sample.inputs[name] for sample in part]) for name in part[0].inputs}


def _read_images(
    paths: Sequence[str | os.PathLike[str]], network: NetworkFacts, resize: Resize | None
) -> list[list[Sample] | DataError]:
    if network.image is None:
        told = (
            f"is no .npy or .npz file, and this network takes no images alone; its inputs are {network.inputs_text}; "
            "if one is an image, give `sepnas import` its --mean and --std"
        )
        return [DataError(f"{path}: {told}") for path in paths]
    [name] = network.inputs
    found = read_images(paths, network.image, resize)
    return [
        each if isinstance(each, DataError) else [Sample(str(path), {name: each})]
        for path, each in zip(paths, found, strict=True)
    ]


def _read_tensors(path: str | os.PathLike[str], network: NetworkFacts) -> list[Sample] | DataError:
    try:
        given = named_inputs(read_tensor_file(path), network.inputs)
        batch = {name: _with_batch_axis(np.asarray(given[name]), network, name) for name in network.inputs}
        prepare_inputs(batch, network.inputs)
    except DataError as error:
        return DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}")
    count = len(next(iter(batch.values())))
    places = [str(path)] if count == 1 else [f"{path}[{index}]" for index in range(count)]
    return [Sample(place, {name: batch[name][index] for name in batch}) for index, place in enumerate(places)]


def _with_batch_axis(tensor: Tensor, network: NetworkFacts, name: str) -> Tensor:
    shape = shape_from_data(network.inputs[name].shape)
    return tensor[None] if tensor.shape == shape.dims else tensor
