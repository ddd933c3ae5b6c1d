"""NNI's own single-objective strategies, for comparison: they see one number per genotype.

The number is the mean accuracy minus the mean cost, each cost as a share of the worst. An infeasible genotype scores
-1 minus its excess; a genotype with a known plan has that plan's score. Neither is evaluated or counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from sepnas.objectives import is_evaluated
from sepnas.search.candidate import EvaluatedT
from sepnas.search.explorer import TRIES_IN_VAIN, Explorer, StrategyName
from sepnas.search.nni_import import (
    FinalMetricEvent,
    Middleware,
    ModelStatus,
    Random,
    RegularizedEvolution,
    TrainingEndEvent,
)
from sepnas.search.pareto import shares
from sepnas.search.strategies import POPULATIONS, GivenProposer
from sepnas.search.strategy import MultiObjectiveStrategy
from sepnas.separable.space import Genotype


class ScalarisedStrategy(MultiObjectiveStrategy[EvaluatedT]):
    """Runs ``Random`` or ``RegularizedEvolution`` with a gate between the strategy and the engine.

    The explorer archives the results. A search with the same seed repeats its proposals, so it resumes by replay.
    """

    def __init__(
        self, main: Any, explorer: Explorer[EvaluatedT], proposer: GivenProposer[Any], worst: Mapping[str, float]
    ) -> None:
        super().__init__(explorer)
        self.main, self.proposer, self.worst = main, proposer, worst

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        return self.main.initialize(super()._initialize(model_space, engine), _Gate(engine, self))

    def _run(self) -> None:
        self.main.run()

    def worth(self, objectives: Mapping[str, float]) -> float:
        """The score that NNI's strategy sees, from -1 to 1; below -1 beyond an accuracy bound."""
        if excess := self.proposer.problem.excess(objectives):
            return -1.0 - excess
        gains = [value for name, value in objectives.items() if is_evaluated(name)]
        costs = {name: value for name, value in objectives.items() if not is_evaluated(name)}
        return fmean(gains) - (float(np.mean(shares(costs, self.worst))) if costs else 0.0)


def make_strategy(
    name: StrategyName, seed: int, explorer: Explorer[EvaluatedT], worst: Mapping[str, float]
) -> MultiObjectiveStrategy[EvaluatedT]:
    """The NNI strategy called ``name``, for an explorer with the proposer of the same name."""
    if not isinstance(explorer.proposer, GivenProposer):
        return MultiObjectiveStrategy(explorer)
    main = Random(seed=seed)
    if name == "regularized-evolution":
        main = RegularizedEvolution(population_size=POPULATIONS[name], seed=seed)
    return ScalarisedStrategy(main, explorer, explorer.proposer, worst)


class _Gate(Middleware):  # type: ignore[misc]  # NNI has no types
    """Passes new, feasible models to the engine and answers for all others itself."""

    def __init__(self, engine: Any, strategy: ScalarisedStrategy[Any]) -> None:
        super().__init__(engine)
        self.explorer, self.proposer, self.worth = strategy.explorer, strategy.proposer, strategy.worth
        self.in_vain = 0

    def submit_models(self, *models: Any) -> None:
        for model in models:
            self.dispatch_model_event(FinalMetricEvent(model, self._answer(model, model.sample)))
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))

    def _answer(self, model: Any, genotype: Genotype) -> float:
        found = self.proposer.problem.price(genotype)
        self.in_vain += 1
        if not found.feasible:
            self.proposer.rejected += 1
            return -1.0 - float(sum(found.excess.values()))
        if found.key in self.proposer.known:
            self.proposer.duplicates += 1
        else:
            self.in_vain = 0
            self.proposer.given.append(found)
            if self.explorer.propose():  # not in the archive
                self.engine.submit_models(model)
            self.explorer.close()
        return self.worth(self.proposer.known[found.key])

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return self.in_vain < TRIES_IN_VAIN and len(self.explorer.candidates) < self.explorer.num_candidates

    def wait_models(self, *models: Any) -> None:
        """Do nothing: ``submit_models`` has already waited."""
