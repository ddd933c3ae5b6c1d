"""The tensors in the body of a request: JSON, or a file of numpy's; one sample of each input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sepnas.deployment.network_facts import InputFacts
from sepnas.errors import DataError
from sepnas.plan.serial import shape_from_data
from sepnas.runtime.client.inputs import named_inputs
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.reading import parse_json
from sepnas.spec.tensor_file import parse_tensors

JSON, NPY, NPZ = "application/json", "application/x-npy", "application/x-npz"
TENSOR_KINDS = (JSON, NPY, NPZ)
MAX_JSON_BYTES = 2_000_000
"""JSON takes many times its size in memory; larger inputs come as ``.npy`` or ``.npz``."""
MAX_JSON_ANSWER_VALUES = 100_000
_PARSED = "the body"


def parse_body(kind: str, body: bytes, facts: Mapping[str, InputFacts]) -> dict[str, npt.NDArray[Any]]:
    """One sample of each input, with a batch axis of 1; raises :class:`DataError`.

    JSON is ``{"inputs": {name: values}}`` with all values of a sample in the order of its shape, in lists or in one
    list. A file holds one sample, with or without a batch axis; a ``.npy`` file is for a network with one input.
    """
    if kind == JSON:
        named = _parse_json(body, facts)
    else:
        # the tensors in a compressed file may be larger than the body, but not than what the network takes
        room = sum(8 * math.prod(each.shape.dims) for each in facts.values()) + (1 << 16)
        named = dict(named_inputs(parse_tensors(body, _PARSED, room), facts))
    return {name: _one_sample(np.asarray(array), facts[name], name) for name, array in named.items()}


def _parse_json(body: bytes, facts: Mapping[str, InputFacts]) -> dict[str, Any]:
    if len(body) > MAX_JSON_BYTES:
        raise DataError(f"{_PARSED} has {len(body):,} bytes of JSON; at most {MAX_JSON_BYTES:,} are read: send {NPZ}")
    try:
        data = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{_PARSED} is no JSON that can be read: {str(error)[:200]}") from None
    if not isinstance(data, dict) or data.keys() != {"inputs"} or not isinstance(data["inputs"], dict):
        raise DataError(f'{_PARSED} must be {{"inputs": {{NAME: [...], ...}}}}')
    return {name: _numbers(values, name) for name, values in named_inputs(data["inputs"], facts).items()}


def _numbers(values: object, name: str) -> Array:
    try:
        found = np.asarray(values)
    except (ValueError, RecursionError, OverflowError):
        found = np.asarray(None)
    if found.dtype.kind not in "iuf":
        raise DataError(f"input '{name}' must be numbers in lists of equal lengths")
    with np.errstate(over="ignore"):  # what becomes infinite is refused as that
        return found.astype(np.float32)


def _one_sample(array: npt.NDArray[Any], facts: InputFacts, name: str) -> npt.NDArray[Any]:
    shape = shape_from_data(facts.shape)
    if array.shape not in (shape.dims, (1, *shape.dims), (shape.num_values,)):
        raise DataError(f"input '{name}' must be one sample of {shape}, got the shape {array.shape}")
    return array.reshape(1, *shape.dims)
