"""An estimate of channels, fitted to what a device has in fact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sepnas.separation.mixtures import Estimate
from sepnas.separation.refit import Joint, refitted
from sepnas.separation.statistics import Array

CHANNELS, HAS, SAMPLES = 6, 4, 4001


def halves(x: Array, z: Array) -> list[Joint]:
    """The original's channels ``(C, samples)`` beside what a device has, of every second sample."""
    return [joint(x[:, i::2], z[:, i::2]) for i in range(2)]


def joint(x: Array, z: Array) -> Joint:
    return Joint(x.shape[1], x.sum(1), z.sum(1), x @ z.T, z @ z.T)


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


def test_errors_count_as_far_as_they_are_read() -> None:
    """A fit that holds on other samples for one channel, and for another does not, is taken where the first is read."""
    draw = np.random.default_rng(2)
    z = draw.normal(size=(1, 40))
    signs = np.tile([1.0, -1.0], 20)  # the halves contradict each other
    x = np.concatenate([3 * signs * z, z])
    first = Estimate(np.zeros((2, 1)), np.zeros(2))
    for channel, taken in ((0, False), (1, True)):
        found = refitted(first, halves(x, z), np.eye(2)[[channel]])
        assert (found.matrix[1, 0] > 0.9) == taken


@given(hnp.arrays(np.float64, (3, 9), elements=st.floats(-1e3, 1e3)), st.integers(0, 2), st.floats(-1e3, 1e3))
def test_channels_that_are_constant_tell_nothing(x: Array, silent: int, value: float) -> None:
    """What does not vary gets no weight worth mentioning, whatever rounding leaves of its variance."""
    z = np.vstack([x, x[::-1]])
    z[silent] = value
    found = refitted(Estimate(np.zeros((3, 6)), np.zeros(3)), halves(x, z), np.eye(3))
    assert np.isfinite(found.matrix).all()
    assert np.abs(found.matrix[:, silent]).max() < 1e-2


@given(hnp.arrays(np.float64, (2, 7), elements=st.floats(-10, 10)), st.floats(0, 0.9))
def test_padding_counts_as_zeros(values: Array, share: float) -> None:
    """Padded sums are those of a longer row that ends in zeros; halves need not be equal."""
    x, z = values[:1], values[1:]
    both = joint(x[:, :4], z[:, :4]).padded(share) + joint(x[:, 4:], z[:, 4:]).padded(share)
    found = refitted(Estimate(np.ones((1, 1)), np.zeros(1)), [both, both], np.zeros((1, 1)))
    assert both.count == pytest.approx(7 / (1 - share))
    np.testing.assert_allclose(found.offset, (1 - share) * (x.mean(1) - z.mean(1)), atol=1e-9)
