"""Optuna's NSGA-II, for comparison, behind a screen that rejects duplicates and infeasible candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial, TrialState

from sepnas.search.explorer import TRIES_IN_VAIN
from sepnas.search.problem import PricedT, Problem
from sepnas.search.strategies import POPULATIONS


class Nsga2Proposer(Generic[PricedT]):
    """Proposes genotypes; the same seed and results give the same proposals.

    Source: NSGA-II with constrained domination (Deb et al. 2002), from Optuna. The first genotypes are random.
    """

    def __init__(self, problem: Problem[PricedT], seed: int, population: int = POPULATIONS["nsga2"]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem = problem
        self.study = optuna.create_study(
            directions=list(problem.directions.values()),
            sampler=optuna.samplers.NSGAIISampler(population_size=population, seed=seed),
        )
        self.distributions: dict[str, BaseDistribution] = {
            label: CategoricalDistribution(values) for label, values in problem.choices.items()
        }
        self.seen: set[str] = set()
        self.trials: dict[str, Trial] = {}
        self.duplicates = self.rejected = 0

    def propose(self) -> PricedT | None:
        """A new feasible candidate to evaluate; None if the space seems exhausted."""
        for _ in range(TRIES_IN_VAIN):
            trial = self.study.ask(self.distributions)
            found = self.problem.price({label: trial.params[label] for label in self.distributions})
            if found.key in self.seen:
                self.duplicates += 1
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            self.seen.add(found.key)
            trial.set_constraint("bounds", sum(found.excess.values()))
            if found.feasible:
                self.trials[found.key] = trial
                return found
            self._reject(trial, found)
        return None

    def tell(self, key: str, objectives: Mapping[str, float]) -> None:
        """Record the measured objectives of a proposed candidate."""
        trial = self.trials.pop(key)
        trial.set_constraint("evaluated", self.problem.excess(objectives))
        self.study.tell(trial, [objectives[name] for name in self.problem.directions])

    def _reject(self, trial: Trial, found: PricedT) -> None:
        """Report the excess without an accuracy: infeasible candidates are ranked by excess alone."""
        self.rejected += 1
        if found.costs:
            known = {**dict.fromkeys(self.problem.evaluated, 0.0), **found.costs}
            self.study.tell(trial, [known[name] for name in self.problem.directions])
        else:
            self.study.tell(trial, state=TrialState.FAIL)
