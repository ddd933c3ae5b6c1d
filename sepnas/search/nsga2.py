"""Optuna's NSGA-II, for comparison, behind a screen that rejects duplicates and infeasible candidates."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial, TrialState

from sepnas.objectives import OBJECTIVES, is_evaluated
from sepnas.search.explorer import TRIES_IN_VAIN
from sepnas.search.screen import Screen, Screened
from sepnas.search.strategies import POPULATIONS
from sepnas.separable.space import SearchSpace


class Nsga2Proposer:
    """Proposes genotypes; the same seed and results give the same proposals.

    Source: NSGA-II with constrained domination (Deb et al. 2002), from Optuna. The first genotypes are random.
    """

    def __init__(self, space: SearchSpace, screen: Screen, seed: int, population: int = POPULATIONS["nsga2"]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objectives, self.screen, self.bounds = space.objectives, screen, space.constraints.bounds(evaluated=True)
        self.study = optuna.create_study(
            directions=[OBJECTIVES[name].direction for name in space.objectives],
            sampler=optuna.samplers.NSGAIISampler(population_size=population, seed=seed),
        )
        self.distributions: dict[str, BaseDistribution] = {
            label: CategoricalDistribution(values) for label, values in space.choices().items()
        }
        self.seen: set[str] = set()
        self.trials: dict[str, Trial] = {}
        self.duplicates = self.rejected = 0

    def propose(self) -> Screened | None:
        """A new feasible candidate to evaluate; None if the space seems exhausted."""
        for _ in range(TRIES_IN_VAIN):
            trial = self.study.ask(self.distributions)
            found = self.screen({label: trial.params[label] for label in self.distributions})
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
        if self.bounds:
            trial.set_constraint("evaluated", self.bounds.excess(objectives))
        self.study.tell(trial, [objectives[name] for name in self.objectives])

    def _reject(self, trial: Trial, found: Screened) -> None:
        """Report the excess without an accuracy: infeasible candidates are ranked by excess alone."""
        self.rejected += 1
        if found.costs:
            self.study.tell(trial, [0.0 if is_evaluated(name) else found.costs[name] for name in self.objectives])
        else:
            self.study.tell(trial, state=TrialState.FAIL)
