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
from sepnas.separation.statistics import Array

RIDGE = 0.03
"""Added to the variances of what a device has, as a share of their mean."""
_ROUNDING = 1e-10
"""Added to them as a share of the mean square: what rounding may have left of them."""


@dataclass(frozen=True, eq=False)
class Joint:
    """Sums over ``count`` positions: of the original's channels ``(C,)``, of what a device has ``(Z,)``, of products.

    ``shared`` ``(C, Z)`` are the products of both, ``squares`` ``(Z, Z)`` those of what the device has.
    """

    count: float
    targets: Array
    values: Array
    shared: Array
    squares: Array

    def __add__(self, other: Joint) -> Joint:
        return Joint(
            self.count + other.count,
            self.targets + other.targets,
            self.values + other.values,
            self.shared + other.shared,
            self.squares + other.squares,
        )

    def padded(self, share: float) -> Joint:
        """Those with as many zeros as make this share of all positions."""
        return Joint(self.count / (1 - share), self.targets, self.values, self.shared, self.squares)


class _Gaps:
    """What an estimate lacks on some images."""

    def __init__(self, matrix: Array, joint: Joint) -> None:
        self.target_mean, self.mean = joint.targets / joint.count, joint.values / joint.count
        products = joint.squares / joint.count
        self.known = products - np.outer(self.mean, self.mean)
        """The covariance ``(Z, Z)`` of what the device has."""
        self.errors = joint.shared / joint.count - np.outer(self.target_mean, self.mean) - matrix @ self.known
        """Its covariance ``(C, Z)`` with the estimate's errors."""
        self.ridge = (RIDGE * float(np.trace(self.known)) + _ROUNDING * float(np.trace(products))) / len(self.mean)

    def correction(self) -> Array:
        """What the matrix ``(C, Z)`` lacks to be that of least squares."""
        damped = self.known + max(self.ridge, 1e-12) * np.eye(len(self.known))
        return np.asarray(np.linalg.solve(damped, self.errors.T).T)

    def slopes(self, correction: Array, readers: Array) -> tuple[float, float]:
        """``(g, l)``: a step ``t`` along a correction changes half of the squared errors by ``l t²/2 - g t``.

        Errors are those of what ``readers`` ``(R, C)`` make of the channels.
        """
        read = readers @ correction
        return float(np.vdot(read, readers @ self.errors)), float(np.vdot(read, read @ self.known))


def refitted(estimate: Estimate, halves: Sequence[Joint], readers: Array) -> Estimate:
    """The estimate that fits both halves of some images: its matrix as far as each half predicts the other best.

    ``readers`` ``(R, C)`` are the weights of what reads the estimate. The offset is that of all images.
    """
    matrix = estimate.matrix
    one, other = (_Gaps(matrix, each) for each in halves)
    gain, loss = np.add(other.slopes(one.correction(), readers), one.slopes(other.correction(), readers))
    both = _Gaps(matrix, halves[0] + halves[1])
    if gain > 0 and loss > 0:
        matrix = matrix + min(1.0, gain / loss) * both.correction()
    return Estimate(matrix, both.target_mean - matrix @ both.mean)
