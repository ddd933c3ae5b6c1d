"""An estimate of channels, fitted to what a device has in fact."""

from __future__ import annotations

import numpy as np
import pytest

from sepnas.separation.mixtures import Estimate
from sepnas.separation.refit import refitted
from sepnas.separation.statistics import Array, ChannelStatistics

CHANNELS, HAS, SAMPLES = 6, 4, 4000


def halves(x: Array, z: Array) -> list[ChannelStatistics]:
    """The statistics of the original's channels ``(C, samples)`` and of what a device has, of every second sample."""
    both = np.concatenate([x, z])
    return [ChannelStatistics(both[:, i::2].mean(1), np.cov(both[:, i::2], bias=True)) for i in range(2)]


def test_a_wrong_estimate_becomes_that_of_least_squares() -> None:
    """What a device has is not what the first estimate assumes: shifted, scaled, and with noise."""
    draw = np.random.default_rng(0)
    x = 2 + draw.normal(size=(CHANNELS, CHANNELS)) @ draw.normal(size=(CHANNELS, SAMPLES))
    z = 3 + 0.5 * x[:HAS] + 0.1 * draw.normal(size=(HAS, SAMPLES))
    first = Estimate(np.eye(CHANNELS, HAS), np.zeros(CHANNELS))
    found = refitted(first, halves(x, z), np.eye(CHANNELS))
    ones = np.vstack([z, np.ones(SAMPLES)])
    best = np.linalg.lstsq(ones.T, x.T, rcond=None)[0].T

    def error(matrix: Array, offset: Array) -> float:
        return float(np.square(x - matrix @ z - offset[:, None]).mean())

    wanted = error(best[:, :-1], best[:, -1])
    assert error(first.matrix, first.offset) > 10 * wanted
    assert error(found.matrix, found.offset) < 1.3 * wanted


def test_an_estimate_that_holds_is_left() -> None:
    """Few samples, and errors that nothing tells of: only the means are fitted."""
    draw = np.random.default_rng(1)
    z = draw.normal(size=(HAS, 12))
    matrix = draw.normal(size=(CHANNELS, HAS))
    x = 1 + matrix @ z + draw.normal(size=(CHANNELS, 12))
    found = refitted(Estimate(matrix, np.zeros(CHANNELS)), halves(x, z), np.eye(CHANNELS))
    np.testing.assert_array_equal(found.matrix, matrix)
    np.testing.assert_allclose(found.offset, x.mean(1) - matrix @ z.mean(1), atol=1e-9)


@pytest.mark.parametrize("channel", range(2))
def test_errors_count_by_their_weight(channel: int) -> None:
    """A fit that helps one channel and harms the other is taken only where the first one counts."""
    draw = np.random.default_rng(2)
    z = draw.normal(size=(1, SAMPLES))
    x = np.concatenate([np.zeros((1, SAMPLES)), z + draw.normal(size=(1, SAMPLES))])
    weight = np.zeros((2, 2))
    weight[channel, channel] = 1
    first = Estimate(np.array([[0.0], [0.0]]), np.zeros(2))
    found = refitted(first, halves(x, z), weight)
    assert (found.matrix[1, 0] > 0.9) == (channel == 1)
