"""Items are dealt out to bins of given sizes as gains most."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from sepnas.separation.dealing import dealt


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """Gains of items in bins, many of them equal; the bins' sizes; the seed of a start."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    gains = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_subnormal=False))
    shape = sum(sizes), len(sizes)
    return draw(arrays(np.float64, shape, elements=gains)), sizes, draw(st.integers(0, 99))


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
        np.testing.assert_allclose(gains[items, found].sum(), most, rtol=1e-9, atol=1e-9 * np.abs(gains).max(initial=0))
    assert (start == before).all()


def test_thousands_of_items_are_dealt_out() -> None:
    """A wide linear layer over eight devices: an assignment to slots would take minutes."""
    generator = np.random.default_rng(0)
    common, own = generator.gamma(0.5, size=(4096, 1)), generator.gamma(1.0, size=(4096, 8))
    found = dealt(common * own, [512] * 8)
    assert np.bincount(found).tolist() == [512] * 8
    assert (common * own)[np.arange(4096), found].sum() > 1.5 * common.sum()
