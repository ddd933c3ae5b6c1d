"""An estimate of channels, fitted anew to what a device has in fact.

The first estimate assumes that a device's own channels, and those that its messages mix, are the original's. They are
not: errors of earlier layers are in them. The second one goes from there towards that of least squares between the
original's channels and what the device has of them on the same images (asymmetric reconstruction, arXiv 1505.06798),
as far as it holds on other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepnas.separation.mixtures import Estimate
from sepnas.separation.statistics import Array, ChannelStatistics

RIDGE = 0.03
"""Added to the variances of what a device has, as a share of their mean."""


@dataclass(frozen=True, eq=False)
class _Gaps:
    """The covariances of an estimate's errors with what the device has ``(C, Z)``, and of this alone ``(Z, Z)``."""

    errors: Array
    known: Array

    @classmethod
    def of(cls, matrix: Array, joint: ChannelStatistics) -> _Gaps:
        count = len(matrix)
        known = joint.covariance[count:, count:]
        return cls(joint.covariance[:count, count:] - matrix @ known, known)

    def correction(self) -> Array:
        """What the matrix lacks to be that of least squares."""
        ridge = max(RIDGE * float(np.trace(self.known)) / len(self.known), 1e-12)
        return np.asarray(np.linalg.solve(self.known + ridge * np.eye(len(self.known)), self.errors.T).T)

    def gain_and_loss(self, correction: Array, weight: Array) -> tuple[float, float]:
        """What a step along a correction takes from half of the weighted squared errors, and what its square adds."""
        weighted = weight @ correction
        return float(np.vdot(weighted, self.errors)), float(np.vdot(weighted, correction @ self.known))


def refitted(estimate: Estimate, halves: Sequence[ChannelStatistics], weight: Array) -> Estimate:
    """The estimate that fits both halves of some images, as far towards it as each half predicts the other best.

    Each half has the statistics of the original's channels ``(C,)`` and, behind them, of what the device has ``(Z,)``.
    ``weight`` ``(C, C)`` is that of squared errors.
    """
    matrix = estimate.matrix
    one, other = (_Gaps.of(matrix, each) for each in halves)
    found = [other.gain_and_loss(one.correction(), weight), one.gain_and_loss(other.correction(), weight)]
    gain, loss = np.sum(found, 0)
    both = _together(halves)
    if gain > 0:
        matrix = matrix + min(1.0, gain / loss) * _Gaps.of(matrix, both).correction()
    count = len(matrix)
    return Estimate(matrix, both.mean[:count] - matrix @ both.mean[count:])


def _together(halves: Sequence[ChannelStatistics]) -> ChannelStatistics:
    """The statistics of equal halves together."""
    mean = np.mean([each.mean for each in halves], 0)
    products = np.mean([each.covariance + np.outer(each.mean, each.mean) for each in halves], 0)
    return ChannelStatistics(mean, products - np.outer(mean, mean))
