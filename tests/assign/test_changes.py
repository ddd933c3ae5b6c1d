"""Changes of a mixture: pairs where single changes stop, each mixture once, within the budget."""

from __future__ import annotations

from typing import Any, cast

from sepnas.assign.changes import Changes, Numbers

PRICES = {(0, 0): 2.0, (1, 1): 1.0}
"""Of mixtures of two units with two choices; others are worse: no single change of (0, 0) is better."""


def changes(tried: list[Numbers], budget: int) -> Changes:
    """Prices are numbers here: what is compared is only their order."""

    def price(numbers: Numbers) -> Any:
        tried.append(numbers)
        return PRICES.get(numbers, 3.0)

    return Changes(price, lambda price: (cast(float, price),), [2, 2], budget, lambda done: None)


def test_two_units_change_together() -> None:
    """The best is found behind mixtures that are worse, and no mixture is tried twice."""
    tried: list[Numbers] = []
    found = changes(tried, 10).best([((0, 0), cast(Any, 2.0))])
    assert cast(float, found) == 1.0
    assert len(tried) == len(set(tried)) <= 4


def test_the_budget_is_kept() -> None:
    """Two tries are enough for the single changes, and no pair is tried after them."""
    tried: list[Numbers] = []
    found = changes(tried, 2).best([((0, 0), cast(Any, 2.0))])
    assert cast(float, found) == 2.0
    assert tried == [(1, 0), (0, 1)]
    assert changes([], 2).can_try_all_of_one_unit
    assert not changes([], 1).can_try_all_of_one_unit
