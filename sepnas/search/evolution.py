"""Evolutionary proposals: many children are simulated, and the most promising one is evaluated."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import moocore
import numpy as np

from sepnas.search.explorer import TRIES_IN_VAIN
from sepnas.search.genes import GenePool
from sepnas.search.pareto import Points, improvement
from sepnas.search.predictor import AccuracyPredictor
from sepnas.search.problem import Features, Genes, PricedT, Problem
from sepnas.search.strategies import CHILDREN

KEPT = 64
"""Maximum number of children kept for later evaluation; half of them may be parents."""
FEWEST_PARENTS = 16
FIRST_LEARNING, LEARNING_GROWTH, KERNEL_GROWTH = 12, 1.1, 2
"""Number of candidates at the first fit of the predictor, and their growth factors between fits, and between fits of
its kernel."""
OPTIMISM = 1.0
"""Standard deviations added to the mean of a predicted accuracy."""


@dataclass
class _Child(Generic[PricedT]):
    """A candidate before or after evaluation.

    ``guess`` holds the predicted mean and deviation of each accuracy; ``point`` the measured objectives as shares.
    """

    priced: PricedT
    genes: Genes
    row: Features
    guess: dict[str, tuple[float, float]] | None = None
    point: Points | None = None


class EvolutionProposer(Generic[PricedT]):
    """Multi-objective evolution with a screen, a memory and a predictor before the expensive evaluation.

    Children are bred from the front. Known and infeasible children are never proposed. The proposed child has the
    largest optimistic gain in hypervolume over the front and the pending candidates; a dominated child is proposed only
    if no other is left. Of ``children`` for each proposal all are priced. Without ``predictor``, the first new child is
    proposed. The first proposals are those that the problem names. The same seed and results give the same proposals.

    Sources: expected hypervolume improvement (Emmerich et al. 2006); a predictor that selects among children
    (NSGANetV2, arXiv 2007.10396).
    """

    def __init__(self, problem: Problem[PricedT], seed: int, predictor: bool = True, children: int = CHILDREN) -> None:
        self.problem, self.seed, self.predictor, self.children = problem, seed, predictor, children
        self.pool = GenePool(problem.choices, seed)
        self.first = deque(self.pool.genes(genotype) for genotype in problem.first)
        self.seen: set[str] = set()
        self.nearest: list[tuple[float, Genes]] = []
        self.waiting: list[_Child[PricedT]] = []
        self.pending: dict[str, _Child[PricedT]] = {}
        self.best: list[_Child[PricedT]] = []
        self.rows: list[Features] = []
        self.accuracies: dict[str, list[float]] = {name: [] for name in problem.evaluated}
        self.learned = self.kernel_learned = 0
        self.models: dict[str, AccuracyPredictor] = {}
        self.duplicates = self.rejected = 0

    def propose(self) -> PricedT | None:
        """A new feasible candidate to evaluate; None if the space seems exhausted."""
        self._learn()
        self._grow(self.children if self.models else 1)
        if not self.waiting:
            return None
        if self.models:
            self._sort_by_promise()
        chosen = self.waiting.pop(0)
        self.pending[chosen.priced.key] = chosen
        return chosen.priced

    def tell(self, key: str, objectives: Mapping[str, float]) -> None:
        """Record the measured objectives of a proposed candidate."""
        child = self.pending.pop(key)
        child.point = self._shares(objectives)
        self.rows.append(child.row)
        for name, known in self.accuracies.items():
            known.append(objectives[name])
        ranked = [*self.best, child]
        ranks = moocore.pareto_rank(np.stack([c.point for c in ranked if c.point is not None]))
        kept = max(FEWEST_PARENTS, int((ranks == 0).sum()))
        self.best = [ranked[index] for index in np.argsort(ranks, kind="stable")[:kept]]

    def _grow(self, wanted: int) -> None:
        """Simulate children until ``wanted`` new ones are feasible; fewer if they are hard to find."""
        grown = 0
        for tries in range(TRIES_IN_VAIN):
            if grown == wanted or (self.waiting and tries >= 4 * wanted):
                break
            genes = self.first.popleft() if self.first else self._breed(tries)
            found = self.problem.price(self.pool.genotype(genes))
            if found.key in self.seen:
                self.duplicates += 1
            elif found.feasible:
                self.waiting.append(_Child(found, genes, self.problem.describe(found, genes)))
                grown += 1
            else:
                self.rejected += 1
                self.nearest = sorted([*self.nearest, (sum(found.excess.values()), genes)], key=lambda n: n[0])
                self.nearest = self.nearest[:FEWEST_PARENTS]
            self.seen.add(found.key)

    def _breed(self, tries: int) -> Genes:
        """A child of the best, or of the least infeasible while none is feasible; sometimes a random genotype."""
        parents = [child.genes for child in (*self.best, *self.waiting[: KEPT // 2])]
        parents = parents or [genes for _, genes in self.nearest]
        if not parents or tries % 10 == 9:
            return self.pool.draw()
        return self.pool.breed(parents)

    def _learn(self) -> None:
        """Fit the predictor when enough candidates are known; fits become rarer, so their total cost stays small."""
        known = len(self.rows)
        if self.predictor and known >= max(FIRST_LEARNING, LEARNING_GROWTH * self.learned):
            keeps = known < KERNEL_GROWTH * self.kernel_learned
            kernels = {name: model.kernel for name, model in self.models.items()} if keeps else {}
            self.models = {
                name: AccuracyPredictor(self.rows, evaluated, self.seed, kernels.get(name))
                for name, evaluated in self.accuracies.items()
            }
            self.learned = known
            self.kernel_learned = self.kernel_learned if keeps else known
            for child in (*self.waiting, *self.pending.values()):
                child.guess = None

    def _sort_by_promise(self) -> None:
        """Sort by expected hypervolume gain and drop the last ones, which may be bred again later."""
        self._guess([*self.waiting, *self.pending.values()])
        known = [child.point for child in self.best if child.point is not None]
        known += [self._guessed(child, optimism=0.0) for child in self.pending.values()]
        front = np.stack(known)
        front = front[moocore.is_nondominated(front)]
        gains = [self._gain(front, self._guessed(child, OPTIMISM)) for child in self.waiting]
        order = np.argsort(-np.asarray(gains), kind="stable")
        self.seen.difference_update(self.waiting[index].priced.key for index in order[KEPT:])
        self.waiting = [self.waiting[index] for index in order[:KEPT]]

    def _guess(self, children: Sequence[_Child[PricedT]]) -> None:
        new = [child for child in children if child.guess is None]
        for name, model in self.models.items() if new else ():
            means, deviations = model.guess([child.row for child in new])
            for child, mean, deviation in zip(new, means, deviations, strict=True):
                child.guess = (child.guess or {}) | {name: (float(mean), float(deviation))}

    def _guessed(self, child: _Child[PricedT], optimism: float) -> Points:
        guesses = child.guess or dict.fromkeys(self.accuracies, (0.0, 0.0))
        hoped = {name: min(1.0, mean + optimism * deviation) for name, (mean, deviation) in guesses.items()}
        return self._shares({**child.priced.costs, **hoped})

    def _shares(self, measured: Mapping[str, float]) -> Points:
        """The objectives on the problem's scales.

        Beyond an accuracy bound, all shares are 1 plus the excess: any feasible point dominates an infeasible one, and
        the nearer of two infeasible points dominates the other.
        """
        points = self.problem.scale(measured)
        excess = self.problem.excess(measured)
        return np.full_like(points, 1 + excess) if excess else points

    def _gain(self, front: Points, point: Points) -> float:
        """The hypervolume that a point adds; beyond an accuracy bound, minus the excess."""
        if point.min() > 1:
            return 1 - float(point.min())
        return improvement(front, point)
