"""What is measured of a network on images: the channels of each tensor that layers mix, and what an error there costs.

The cost of an error is that of the second-order expansion of the divergence between the answers before and after: for
an output channel, half of the mean square of the gradient of an answer's log-likelihood (the diagonal of the Fisher
information), summed over positions, times the mean square of the error. Values of messages are thus in nats, and those
of all layers are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sepnas.separation.relations import MixingLayer

Array = npt.NDArray[np.floating]
_LEAST_COST = 1e-3
"""The least cost of an output's error, as a share of the mean: an output that images left silent may speak."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """The mean ``(C,)`` and the covariance ``(C, C)`` of a tensor's channels, over samples and positions."""

    mean: Array
    covariance: Array

    def padded(self, share: float) -> ChannelStatistics:
        """Those of a tensor of which this share is padding with zeros, per value that is none."""
        return ChannelStatistics((1 - share) * self.mean, self.covariance + share * np.outer(self.mean, self.mean))


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was measured: statistics by the tensor's name, ``costs`` ``(O,)`` of output channels by the layer's name.

    What was not measured is assumed: independent channels of variance 1, and layers that matter alike.
    """

    tensors: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    costs: Mapping[str, Array] = field(default_factory=dict)

    def of(self, tensor: str, channels: int) -> ChannelStatistics:
        """The statistics of a tensor with so many channels."""
        found = self.tensors.get(tensor)
        return ChannelStatistics(np.zeros(channels), np.eye(channels)) if found is None else found

    def costs_of(self, layer: MixingLayer, energy: Array) -> Array:
        """The cost of an error in each output channel of a layer, given the variance of each ``(O,)``.

        Without measurements, all outputs of a layer that are lost together cost 1, and each of them alike. Outputs that
        do not vary cost as those of average variance: they may vary on other images.
        """
        found = self.costs.get(layer.node.name)
        if found is not None and found.any():
            return np.asarray(np.maximum(found, _LEAST_COST * found.mean()))
        varies = energy > 0
        usual = energy[varies].mean() if varies.any() else 1.0
        return np.asarray(1 / (np.where(varies, energy, usual) * len(energy)))
