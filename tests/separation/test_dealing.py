"""Items are dealt out to bins of given sizes as gains most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from sepnas.errors import SpecError
from sepnas.separation.dealing import dealt


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """Gains of items in bins, many of them equal or of very different sizes; the bins' sizes; the seed of a start."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    tenths = st.integers(-3, 3).map(lambda each: 0.1 * each)
    gains = draw(arrays(np.float64, (sum(sizes), len(sizes)), elements=st.one_of(tenths, st.floats(-1e6, 1e6))))
    gains += draw(arrays(np.float64, len(sizes), elements=st.sampled_from([0.0, 0.7, 1e3])))
    if gains.size and draw(st.booleans()):
        gains[0, -1] = 1e12
    return gains, sizes, draw(st.integers(0, 99))


@given(problems())
def test_no_other_deal_gains_more(problem: tuple[np.ndarray, list[int], int]) -> None:
    """The sum is that of an assignment to slots, from any start, and each bin gets as many items as it holds."""
    gains, sizes, seed = problem
    slots = np.repeat(np.arange(len(sizes)), sizes)
    rows, taken = linear_sum_assignment(gains[:, slots], maximize=True)
    most, items = gains[:, slots][rows, taken].sum(), np.arange(len(slots))
    start = np.random.default_rng(seed).permutation(slots)
    before = start.copy()
    for found in (dealt(gains, sizes), dealt(gains, sizes, start)):
        assert np.bincount(found, minlength=len(sizes)).tolist() == sizes
        np.testing.assert_allclose(
            gains[items, found].sum(), most, rtol=1e-9, atol=1e-10 * np.abs(gains).max(initial=0)
        )
    assert (start == before).all()


def test_rounding_makes_no_cycle() -> None:
    """Gains in tenths, whose sums round, end at the best deal."""
    gains = 0.1 * np.array([[-1, -2, 1], [2, 1, 0], [2, 3, 3], [-1, 3, 1]])
    found = dealt(gains, [1, 2, 1])
    assert gains[np.arange(4), found].sum() == pytest.approx(0.9)


def test_thousands_of_items_are_dealt_out() -> None:
    """A wide linear layer over eight devices: nearly all items can go where they gain most."""
    generator = np.random.default_rng(0)
    gains = generator.gamma(0.5, size=(4096, 1)) * generator.gamma(1.0, size=(4096, 8))
    found = dealt(gains, [512] * 8)
    assert np.bincount(found).tolist() == [512] * 8
    assert gains[np.arange(4096), found].sum() > 0.999 * gains.max(1).sum()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_gains_that_are_not_finite_are_refused(wrong: float) -> None:
    """They would leave the start as it is."""
    with pytest.raises(SpecError, match="importances are not finite"):
        dealt(np.array([[1.0, wrong], [0.0, 1.0]]), [1, 1])
