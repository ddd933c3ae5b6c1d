"""The importance of each input channel of a mixing layer for each of its output channels.

It is the squared weights, summed over the kernel, times the mean square of the input channel: the share of an output's
variance that the channel brings, if channels are independent. Each layer's importances add up to 1, each output's to
``1 / outputs``, so that layers are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.separation.channels import ChannelMap
from sepnas.separation.relations import MixingLayer

Array = npt.NDArray[np.floating]
Importance = Mapping[str, Array]
"""By layer: (outputs, inputs)."""


def importance_of(
    channels: ChannelMap, weights: Mapping[str, npt.NDArray[np.generic]], squares: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """The importances of each mixing layer by name, (outputs, inputs).

    ``squares`` has the mean square of each channel of tensors, by name, measured on some images; without them, weights
    alone count. Raises :class:`SpecError` for a weight that is missing, or not finite.
    """
    return {name: _of_layer(layer, weights, (squares or {}).get(layer.operand)) for name, layer in
            channels.mixing.items()}  # fmt: skip


def _of_layer(layer: MixingLayer, weights: Mapping[str, npt.NDArray[np.generic]], squares: Array | None) -> Array:
    name = layer.node.inputs[layer.weight]
    if name not in weights:
        raise SpecError(
            f"weights: tensor '{name}' of layer '{layer.node.name}' is missing; a trained network is needed"
        )
    energy = np.square(per_channel(layer, np.asarray(weights[name], dtype=np.float64)))
    energy = energy.reshape(*energy.shape[:2], -1).sum(2)
    if squares is not None:
        energy = energy * np.asarray(squares, dtype=np.float64)
    if not np.isfinite(energy).all():
        raise SpecError(f"weights: tensor '{name}' of layer '{layer.node.name}' holds numbers that are not finite")
    sums = energy.sum(1, keepdims=True)
    # an output that nothing reaches is reached by all alike
    shares = np.divide(energy, sums, out=np.full_like(energy, 1 / energy.shape[1]), where=sums > 0)
    return np.asarray(shares / len(energy), dtype=np.float32)


def per_channel(layer: MixingLayer, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A layer's weight as (outputs, inputs, ...), with one input if it has a single one."""
    out_axis = layer.relation.operands[layer.weight].axis
    if layer.weight_axis is None:
        return np.moveaxis(weight, out_axis, 0)[:, None]
    return np.moveaxis(weight, (out_axis, layer.weight_axis), (0, 1))
