"""Changes of a mixture's layouts, one unit or two at a time, as long as the exact price improves.

Two at a time, because the slowest device or the fullest one may change only if two operators move together: single
changes stop at mixtures of equal or worse price around a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import TypeAlias

from sepnas.assign.goal import SortKey
from sepnas.assign.priced import Alternative

Numbers: TypeAlias = tuple[int, ...]
"""The number of the choice that is taken in each unit."""


class Changes:
    """The best of what has been tried; ``price`` is None for mixtures that are impossible.

    ``counts`` are the numbers of choices of the units. At most ``budget`` mixtures are tried, each once.
    """

    def __init__(
        self,
        price: Callable[[Numbers], Alternative | None],
        key: Callable[[Alternative], SortKey],
        counts: Sequence[int],
        budget: int,
        show: Callable[[int], None],
    ) -> None:
        self._price, self._key, self._counts = price, key, counts
        self._left = self._budget = budget
        self._show, self._tried = show, set[Numbers]()

    @property
    def can_try_all_of_one_unit(self) -> bool:
        """Whether the budget lasts for every change of a single unit."""
        return sum(count - 1 for count in self._counts) <= self._budget

    def best(self, starts: Iterable[tuple[Numbers, Alternative]]) -> Alternative:
        """The best that changes lead to from the ``starts``, of which the best comes first."""
        found = [self._ended(self._one_unit, *start) for start in starts]
        numbers, best = min(found, key=lambda each: self._key(each[1]))
        while True:
            changed = self._ended(self._two_units, numbers, best)
            if changed[0] == numbers:
                return best
            numbers, best = self._ended(self._one_unit, *changed)

    def _ended(
        self, near: Callable[[Numbers], Iterator[Numbers]], numbers: Numbers, best: Alternative
    ) -> tuple[Numbers, Alternative]:
        """Go to better neighbours until there is none, or the budget is spent."""
        better = True
        while better:
            better = False
            for each in near(numbers):
                made = self._made(each)
                if made is not None and self._key(made) < self._key(best):
                    numbers, best, better = each, made, True
                    break
        return numbers, best

    def _made(self, numbers: Numbers) -> Alternative | None:
        if numbers in self._tried or not self._left:
            return None
        self._tried.add(numbers)
        self._left -= 1
        self._show(self._budget - self._left)
        return self._price(numbers)

    def _one_unit(self, numbers: Numbers) -> Iterator[Numbers]:
        for place, count in enumerate(self._counts):
            for number in range(count):
                if number != numbers[place]:
                    yield _with(numbers, (place, number))

    def _two_units(self, numbers: Numbers) -> Iterator[Numbers]:
        """Pairs that are near each other come first."""
        pairs = sorted(combinations(range(len(numbers)), 2), key=lambda pair: pair[1] - pair[0])
        for one, other in pairs:
            for first, second in product(range(self._counts[one]), range(self._counts[other])):
                if first != numbers[one] and second != numbers[other]:
                    yield _with(numbers, (one, first), (other, second))


def _with(numbers: Numbers, *changes: tuple[int, int]) -> Numbers:
    found = list(numbers)
    for place, number in changes:
        found[place] = number
    return tuple(found)
