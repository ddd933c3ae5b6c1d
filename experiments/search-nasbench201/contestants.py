"""The strategies side by side: each names the cells that it evaluates, in order, none of them twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import optuna
from benchmark import Benchmark
from cell_problem import PricedCell
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler

from sepnas.search.evolution import EvolutionProposer
from sepnas.search.explorer import BATCH
from sepnas.search.nni_import import (
    ExecutionEngine,
    FinalMetricEvent,
    ModelStatus,
    RegularizedEvolution,
    SimplifiedModelSpace,
    TrainingEndEvent,
)
from sepnas.search.nsga2 import Nsga2Proposer
from sepnas.search.strategy import PolicyModelSpace

TPE_TRIES = 2
"""Trials of TPE for each evaluation at most: it asks for known cells again and again."""
Contestant = Callable[[Benchmark, int, int], list[str]]
"""Cells, as text, from a benchmark, a seed, and the number of evaluations."""


def random_cells(benchmark: Benchmark, seed: int, evaluations: int) -> list[str]:
    """Cells drawn without replacement."""
    texts = list(benchmark.accuracies)
    return [texts[index] for index in np.random.default_rng(seed).permutation(len(texts))[:evaluations]]


def ours(predictor: bool) -> Contestant:
    """Evolution as `sepnas search` runs it, eight at a time."""

    def explore(benchmark: Benchmark, seed: int, evaluations: int) -> list[str]:
        return _explore(EvolutionProposer(benchmark.problem, seed, predictor=predictor), benchmark, evaluations)

    return explore


def nsga2(population: int) -> Contestant:
    """Optuna's NSGA-II."""

    def explore(benchmark: Benchmark, seed: int, evaluations: int) -> list[str]:
        return _explore(Nsga2Proposer(benchmark.problem, seed, population), benchmark, evaluations)

    return explore


def tpe(**options: Any) -> Contestant:
    """Optuna's TPE for several objectives; a known cell is answered at once and is no evaluation."""

    def explore(benchmark: Benchmark, seed: int, evaluations: int) -> list[str]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        problem, known = benchmark.problem, dict[str, list[float]]()
        study = optuna.create_study(
            directions=list(problem.directions.values()), sampler=TPESampler(seed=seed, **options)
        )
        distributions = {label: CategoricalDistribution(values) for label, values in problem.choices.items()}
        for _ in range(TPE_TRIES * evaluations):
            trial = study.ask(distributions)
            priced = problem.price(trial.params)
            measured = benchmark.measure(priced)
            known.setdefault(priced.key, [measured[name] for name in problem.directions])
            study.tell(trial, known[priced.key])
            if len(known) == evaluations:
                break
        return list(known)

    return explore


def regularized_evolution(population: int, sample: int, mutation: float, weight: float) -> Contestant:
    """NNI's, on accuracy less ``weight`` times the mean share of the costs."""

    def explore(benchmark: Benchmark, seed: int, evaluations: int) -> list[str]:
        strategy = RegularizedEvolution(
            population_size=population, sample_size=sample, mutation_prob=mutation, seed=seed
        )
        engine = _TableEngine(benchmark, weight, evaluations)
        space = SimplifiedModelSpace.from_model(PolicyModelSpace(benchmark.problem.choices))
        strategy(space, engine)
        return engine.found

    return explore


class _TableEngine(ExecutionEngine):  # type: ignore[misc]  # NNI has no types
    """Answers for each model at once."""

    def __init__(self, benchmark: Benchmark, weight: float, evaluations: int) -> None:
        super().__init__()
        self.benchmark, self.weight, self.evaluations = benchmark, weight, evaluations
        self.found: list[str] = []

    def submit_models(self, *models: Any) -> None:
        for model in models:
            priced = self.benchmark.problem.price(model.sample)
            shares = self.benchmark.problem.scale(self.benchmark.measure(priced))
            self.found.append(priced.key)
            self.dispatch_model_event(FinalMetricEvent(model, 1 - shares[0] - self.weight * shares[1:].mean()))
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))

    def wait_models(self, *models: Any) -> None:
        """Do nothing: ``submit_models`` has already answered."""

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return len(self.found) < self.evaluations


def _explore(proposer: Any, benchmark: Benchmark, evaluations: int) -> list[str]:
    """Batches of proposals, each told when all of it is measured."""
    found: list[str] = []
    while len(found) < evaluations:
        batch: list[PricedCell] = list(islice(iter(proposer.propose, None), min(BATCH, evaluations - len(found))))
        if not batch:
            break
        for priced in batch:
            proposer.tell(priced.key, benchmark.measure(priced))
            found.append(priced.key)
    return found


CONTESTANTS: dict[str, dict[str, Contestant]] = {
    "random": {"": random_cells},
    "predictive": {"": ours(predictor=True)},
    "evolution": {"": ours(predictor=False)},
    "nsga2": {f"population {number}": nsga2(number) for number in (10, 20, 50)},
    "tpe": {"independent": tpe(), "multivariate": tpe(multivariate=True)},
    "regularized-evolution": {
        f"population {population}, sample {sample}, mutation {mutation}, weight {weight}": regularized_evolution(
            population, sample, mutation, weight
        )
        for population, sample, mutation in ((100, 25, 0.05), (50, 10, 0.2), (20, 5, 0.2))
        for weight in (0.3, 1.0)
    },
}
"""Each strategy with its settings; the one that is best on CIFAR-10 is shown on the other data sets."""
