"""Times in relation to each other, also those of networks that take none."""

from __future__ import annotations

import math

from sepnas.report.comparison.values import ratio_of


def test_networks_that_take_no_time_are_compared() -> None:
    """Equal times are 1 time as long, and any time is infinitely longer than none."""
    assert (ratio_of(0.0, 0.0), ratio_of(2.0, 1.0), ratio_of(0.0, 1.0), ratio_of(1.0, 0.0)) == (1, 2, 0, math.inf)
