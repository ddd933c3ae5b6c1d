"""Merges in numpy, operation for operation as ``sepnas.nets.exchange`` does them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sepnas.errors import PlanError
from sepnas.plan.steps import Merge
from sepnas.runtime.tensors.codec import Array


def merge(step: Merge, inputs: Sequence[Array], weights: Array | None = None) -> Array:
    """The output of a merge step; arrays are ``(B, channels, height, width)``, inputs stay as they are.

    ``weights`` are the numbers of a ``weighted`` merge, one for each input after the first.
    """
    own, received = inputs[0], inputs[1:]
    if step.kind == "mean":
        return _mean(own, received)
    if step.kind == "weighted":
        if weights is None or len(weights) != len(received):
            raise PlanError(f"merge '{step.output}' needs {len(received)} weights named '{step.parameter}'")
        return _weighted(own, received, weights)
    if step.kind == "sum":
        return _add_prefixes(own, received)
    return np.concatenate(inputs, axis=1 if step.kind == "concat" else 2)


def _add_prefixes(own: Array, deltas: Sequence[Array]) -> Array:
    out = own.copy()
    for delta in deltas:
        out[:, : delta.shape[1]] += delta
    return out


def _mean(own: Array, received: Sequence[Array]) -> Array:
    out = _add_prefixes(own, received)
    counts = np.ones(own.shape[1], np.float32)
    for message in received:
        counts[: message.shape[1]] += 1
    out /= counts[:, None, None]
    return out


def _weighted(own: Array, received: Sequence[Array], weights: Array) -> Array:
    deltas = [
        weight * (message - own[:, : message.shape[1]]) for message, weight in zip(received, weights, strict=True)
    ]
    return _add_prefixes(own, deltas)
