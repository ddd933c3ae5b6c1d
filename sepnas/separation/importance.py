"""The importance of each input channel of a mixing layer for each of its output channels.

It is the squared weights, summed over the kernel, times the variance of the input channel: what the channel brings to
the output's variance, if channels are independent. Times the cost of an error there
(:mod:`sepnas.separation.statistics`), it is what the channel's absence costs. Without measurements, each layer's
importances add up to 1, each output's to ``1 / outputs``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.separation.channels import ChannelMap
from sepnas.separation.relations import MixingLayer
from sepnas.separation.statistics import Array, Statistics

Importance = Mapping[str, Array]
"""By layer: (outputs, inputs)."""
Weights = Mapping[str, npt.NDArray[np.generic]]


def importance_of(channels: ChannelMap, weights: Weights, statistics: Statistics | None = None) -> dict[str, Array]:
    """The importances of each mixing layer by name, (outputs, inputs).

    Raises :class:`SpecError` for a weight that is missing, or not finite.
    """
    found = statistics or Statistics()
    return {name: _of_layer(layer, weights, found) for name, layer in channels.mixing.items()}


def _of_layer(layer: MixingLayer, weights: Weights, statistics: Statistics) -> Array:
    energy = energy_of(layer, weight_of(layer, weights), statistics)
    sums = energy.sum(1, keepdims=True)
    costs = statistics.costs_of(layer, sums[:, 0])
    if layer.node.name not in statistics.costs:
        # an output that nothing reaches is reached by all alike
        return np.asarray(np.where(sums > 0, energy * costs[:, None], 1 / energy.size), dtype=np.float32)
    return np.asarray(energy * costs[:, None], dtype=np.float32)


def energy_of(layer: MixingLayer, weight: npt.NDArray[np.float64], statistics: Statistics) -> Array:
    """What each input brings to the variance of each output, (outputs, inputs), given a layer's :func:`weight_of`."""
    found = np.square(weight).reshape(*weight.shape[:2], -1).sum(2)
    return np.asarray(found * np.diag(statistics.of(layer.operand, weight.shape[1]).covariance))


def weight_of(layer: MixingLayer, weights: Weights) -> npt.NDArray[np.float64]:
    """A layer's weight as (outputs, inputs, ...), with one input if it has a single one.

    Raises :class:`SpecError` if it is missing, or not finite.
    """
    name = layer.node.inputs[layer.weight]
    if name not in weights:
        raise SpecError(
            f"weights: tensor '{name}' of layer '{layer.node.name}' is missing; a trained network is needed"
        )
    weight = np.asarray(weights[name], dtype=np.float64)
    if not np.isfinite(weight).all():
        raise SpecError(f"weights: tensor '{name}' of layer '{layer.node.name}' holds numbers that are not finite")
    out_axis = layer.relation.operands[layer.weight].axis
    if layer.weight_axis is None:
        return np.moveaxis(weight, out_axis, 0)[:, None]
    return np.moveaxis(weight, (out_axis, layer.weight_axis), (0, 1))
