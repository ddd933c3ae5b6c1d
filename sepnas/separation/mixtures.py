"""Mixtures of channels: what a message holds instead of channels, and the best estimate of all channels from them.

A device that has some channels of a tensor knows something of the others, because they are correlated. What it does
not know, the residual, matters as far as its layers read it. With the residual's covariance R and the weights A from a
source's channels, each output's scaled by the root of the cost of an error there, the mixtures Uᵀ A with the
eigenvectors U of A R Aᵀ leave the least cost: an eigenvalue is what the absence of its mixture costs. There are no more
of them than outputs that read the channels, so that all mixtures together are partial sums: the layer is exact, at
fewer bytes than its input (low-rank approximation of a layer's answers, as in arXiv 1505.06798, here of the blocks
between devices).

A sender centres and scales its mixtures, so that rounding all of a message in equal steps costs least. The estimate
takes rounding as noise, and each mixture as telling of all channels, whoever has them (the linear estimate of least
mean square error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepnas.plan.wire import LEVELS, WireFormat
from sepnas.separation.atoms import Labels
from sepnas.separation.channels import ChannelMap
from sepnas.separation.importance import Weights, energy_of, weight_of
from sepnas.separation.relations import MixingLayer
from sepnas.separation.spaces import Placement
from sepnas.separation.statistics import Array, ChannelStatistics, Statistics

_RIDGE = 1e-2
"""Added to the variances of the channels from which others are estimated, as a share of their mean."""
_FLOOR = 1e-3
"""Added to the variances of the residual, as a share of their mean: channels that images left silent may speak."""
_ROUNDING = 1e-10
"""Added to all variances, as a share of the mean square: what rounding may have left of them."""
_RANK = 1e-12
"""Eigenvalues below this share of the largest are zero."""
_RANGE = 7.0
"""From the least to the greatest value of a message, in standard deviations."""


def rounding_of(wire: WireFormat) -> float:
    """The error's variance in a format, in that of the values: the error is even within a step."""
    return (_RANGE / LEVELS[wire]) ** 2 / 12 if wire in LEVELS else 0.0


@dataclass(frozen=True, eq=False)
class Basis:
    """The mixtures ``(K, C)`` of a source's channels for a device, the most valuable first, and their values ``(K,)``.

    Each has a variance of 1: rounding all of a message in equal steps then costs least, and weights have sizes that
    training is used to. ``news`` ``(K,)`` is the part of this variance that the device does not know already.
    """

    mixtures: Array
    values: Array
    news: Array

    def values_in(self, wire: WireFormat) -> Array:
        """The values ``(K,)`` of mixtures that are rounded on their way: news in noise."""
        return self.values * self.news / (self.news + rounding_of(wire))


@dataclass(frozen=True, eq=False)
class Arrival:
    """What a device is sent of ``channels`` of a tensor: ``mixtures`` ``(K, channels)``, or the channels themselves.

    The sender adds ``offset`` ``(K,)`` to mixtures; what arrives has an error of variance ``noise``.
    """

    channels: Labels
    mixtures: Array | None = None
    offset: Array | None = None
    noise: float = 0.0

    @property
    def width(self) -> int:
        return len(self.channels) if self.mixtures is None else len(self.mixtures)


@dataclass(frozen=True, eq=False)
class Estimate:
    """All channels of a tensor ``(C,)`` as ``matrix`` ``(C, Z)`` times what a device has of it, plus ``offset``."""

    matrix: Array
    offset: Array


class Known:
    """What the channels ``own`` tell of all channels of a tensor: their estimate, and the residual's covariance."""

    def __init__(self, statistics: ChannelStatistics, own: Labels) -> None:
        self.mean, self.own, count = np.asarray(statistics.mean, dtype=np.float64), own, len(statistics.mean)
        self.covariance = _certain(statistics)
        self.others = others = np.setdiff1d(np.arange(count), own)
        self.slopes = np.zeros((count, len(own)))
        self.slopes[own] = np.eye(len(own))
        if len(own):
            known = self.covariance[np.ix_(own, own)]
            ridge = _RIDGE * np.trace(known) / len(own) + 1e-12
            slopes = np.linalg.solve(known + ridge * np.eye(len(own)), self.covariance[np.ix_(own, others)])
            self.slopes[others] = slopes.T
        self._floor = _FLOOR * max(self._unknown_variances(others).sum() / max(1, len(others)), 1e-12)

    def _unknown_variances(self, channels: Labels) -> Array:
        """The diagonal of :meth:`_unknown`."""
        slopes, own = self.slopes[channels], self.own
        shared = (slopes * self.covariance[np.ix_(channels, own)]).sum(1)
        known = _squares(slopes, self.covariance[np.ix_(own, own)])
        return np.asarray(np.diag(self.covariance)[channels] - 2 * shared + known)

    def _unknown(self, channels: Labels) -> Array:
        slopes, own = self.slopes[channels], self.own
        shared = slopes @ self.covariance[np.ix_(own, channels)]
        known = slopes @ self.covariance[np.ix_(own, own)] @ slopes.T
        return np.asarray(self.covariance[np.ix_(channels, channels)] - shared - shared.T + known)

    def residual_of(self, channels: Labels) -> Array:
        """The residual's covariance of channels of others, positive definite."""
        return np.asarray(self._unknown(channels) + self._floor * np.eye(len(channels)))

    def basis(self, channels: Labels, readers: Array, centred: bool = True) -> Basis:
        """The mixtures of other channels, given the weights ``readers`` ``(outputs, channels)`` of what reads them.

        Those that are not ``centred`` by their sender have a mean square of 1 instead of a variance.
        """
        residual = self.residual_of(channels)
        if len(readers) < len(channels):
            values, vectors = np.linalg.eigh(readers @ residual @ readers.T)
            mixtures = vectors.T @ readers
        else:
            root, gram = np.linalg.cholesky(residual), readers.T @ readers
            values, vectors = np.linalg.eigh(root.T @ gram @ root)
            mixtures = (vectors.T @ root.T @ gram) / np.sqrt(np.maximum(values, 1e-300))[:, None]
        kept = np.flatnonzero(values > max(_RANK * values.max(), 1e-300))[::-1]
        new = mixtures[kept] / np.sqrt(values[kept])[:, None]  # of a variance of 1, as far as it is not known
        squares = _squares(new, self.covariance[np.ix_(channels, channels)])
        if not centred:
            squares += np.square(new @ self.mean[channels])
        squares = np.maximum(squares, 1)
        return Basis(new / np.sqrt(squares)[:, None], values[kept], 1 / squares)

    def estimate(self, arrivals: Sequence[Arrival]) -> Estimate:
        """All channels from the own ones and those that arrive, in this order."""
        others, own, slopes = self.others, self.own, self.slopes[self.others]
        taken, offsets, noise = self._read(arrivals)
        of_others = taken[:, others]
        seen = of_others @ self.residual_of(others)
        back = np.linalg.solve(seen @ of_others.T + np.diag(noise), seen).T
        matrix = np.zeros((len(self.mean), len(own) + len(taken)))
        matrix[own, np.arange(len(own))] = 1
        matrix[others] = np.hstack([slopes - back @ of_others @ slopes, back])
        known = np.concatenate([self.mean[own], taken @ self.mean + offsets])
        return Estimate(matrix, self.mean - matrix @ known)

    def _read(self, arrivals: Sequence[Arrival]) -> tuple[Array, Array, Array]:
        """What arrives as mixtures ``(Z, C)`` of all channels, its offsets and the variances of its errors ``(Z,)``."""
        width = sum(each.width for each in arrivals)
        taken, offsets, noise, place = np.zeros((width, len(self.mean))), np.zeros(width), np.zeros(width), 0
        for each in arrivals:
            rows = slice(place, place := place + each.width)
            taken[rows, each.channels] = np.eye(each.width) if each.mixtures is None else each.mixtures
            offsets[rows] = 0 if each.offset is None else each.offset
            noise[rows] = each.noise
        return taken, offsets, noise


def _squares(rows: Array, products: Array) -> Array:
    """``xᵀ P x`` of each of the rows ``(K, C)``, given ``P`` ``(C, C)``: ``(K,)``."""
    return np.asarray(((rows @ products) * rows).sum(1))


def _certain(statistics: ChannelStatistics) -> Array:
    """The covariance, positive definite even if it is nothing but rounding."""
    covariance = np.asarray(statistics.covariance, dtype=np.float64)
    squares = np.diag(covariance) + np.square(statistics.mean, dtype=np.float64)
    return np.asarray(covariance + _ROUNDING * squares.mean() * np.eye(len(covariance)))


def known_from(channels: ChannelMap, statistics: Statistics, tensor: str, own: Labels) -> Known:
    """What some channels of a tensor tell of all.

    The constant of the estimate goes into the biases of the layers that read it, and is thus added to padding too: the
    estimate is that of least squares over all that these layers read, padding included.
    """
    found = statistics.of(tensor, len(channels.labels(tensor)))
    return Known(found.padded(channels.padding_share(tensor)), own)


def known_to(placement: Placement, statistics: Statistics, tensor: str, device: int) -> Known:
    """What a device's own channels tell of a tensor."""
    return known_from(placement.channels, statistics, tensor, placement.own(tensor, device))


def readers_of(
    placement: Placement,
    layers: Sequence[MixingLayer],
    device: int,
    weights: Weights,
    statistics: Statistics,
) -> Array:
    """The weights of a device's layers for all channels of their operand, ``(outputs times taps, channels)``.

    Each is scaled by the root of the cost of an error in its output.
    """
    found = []
    for layer in layers:
        weight, outputs = weight_of(layer, weights), placement.own(layer.output, device)
        costs = statistics.costs_of(layer, energy_of(layer, weight, statistics).sum(1))[outputs]
        scaled = weight[outputs] * np.sqrt(costs).reshape(-1, *(1 for _ in weight.shape[1:]))
        found.append(np.moveaxis(scaled, 1, -1).reshape(-1, weight.shape[1]))
    return np.concatenate(found)
