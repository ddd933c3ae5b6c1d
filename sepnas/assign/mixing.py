"""Mixed layouts: dynamic programming over operators and the layouts that candidates give them.

Labels stand for the choices for the first units of the network. Two labels whose tensors lie alike go on in the same
ways, so that the cheaper ones of them are kept: all that are kept differ in a layout that matters later, or are among
the best of those with equal layouts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from sepnas.assign.cells import NodeCell
from sepnas.assign.estimate import Estimator
from sepnas.assign.label import Label
from sepnas.assign.proposal import Proposal
from sepnas.partition.parts import Layouts

UnitCells: TypeAlias = tuple[NodeCell, ...]
"""The cells of a unit's nodes."""
Cost: TypeAlias = Callable[[Label], tuple[float, ...]]
MIN_WIDTH = 48
KEYS = 24
"""One in so many of the labels that are kept may have equal layouts: those of the least estimate now may leave a wire
busy for longer, or a device with less memory."""


class Mixer:
    """The layouts that candidates give each unit, each once, and their best mixtures.

    ``units`` are runs of places in the graph; those of :class:`sepnas.assign.facts.GraphFacts` by default.
    """

    def __init__(
        self, estimator: Estimator, candidates: Iterable[Proposal], units: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.estimator, units = estimator, units or estimator.facts.units
        found: list[dict[UnitCells, str]] = [{} for _ in units]
        for candidate in candidates:
            cells = estimator.cells_of(candidate.layouts)
            for unit, choices in zip(units, found, strict=True):
                choices.setdefault(tuple(cells[place] for place in unit), candidate.scheme)
        self.choices: list[list[UnitCells]] = [list(choices) for choices in found]
        self._names = [list(choices.values()) for choices in found]

    @property
    def num_mixtures(self) -> int:
        """The number of ways to choose."""
        return math.prod(map(len, self.choices))

    def names(self, chosen: Sequence[int]) -> list[str]:
        """The schemes of a mixture, those of most units first."""
        taken = Counter(names[number] for names, number in zip(self._names, chosen, strict=True))
        return [name for name, _ in taken.most_common()]

    def layouts(self, chosen: Sequence[int]) -> Layouts:
        """The layout of each node for a number in each unit."""
        nodes = self.estimator.facts.nodes
        cells = (cell for choices, number in zip(self.choices, chosen, strict=True) for cell in choices[number])
        return {nodes[cell.place].name: cell.layout for cell in cells}

    def best(self, cost: Cost, width: int, show: Callable[[int], None] = lambda done: None) -> list[Label]:
        """Whole labels, the best first; none if every mixture is impossible.

        ``width`` labels are kept after each unit, or ``MIN_WIDTH`` if that is more.
        """
        labels, width = [Label.start(self.estimator.cluster)], max(width, MIN_WIDTH)
        for done, choices in enumerate(self.choices):
            show(done)
            labels = _kept(self._extended(labels, choices), cost, width)
        ended = (self.estimator.answered(label) for label in labels)
        return sorted((label for label in ended if label is not None), key=cost)

    def _extended(self, labels: Sequence[Label], choices: Sequence[UnitCells]) -> Iterable[Label]:
        for label in labels:
            for number, cells in enumerate(choices):
                after = self.estimator.after(label, cells)
                if after is not None:
                    after.chosen = (*label.chosen, number)
                    yield after


def _kept(labels: Iterable[Label], cost: Cost, width: int) -> list[Label]:
    kept: list[Label] = []
    counts: dict[object, int] = {}
    for label in sorted(labels, key=cost):
        key = label.key
        if counts.setdefault(key, 0) < width // KEYS:
            counts[key] += 1
            kept.append(label)
            if len(kept) == width:
                break
    return kept
