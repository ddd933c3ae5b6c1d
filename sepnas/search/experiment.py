"""The NNI experiment: an execution engine evaluates the strategy's proposals, in this process or in trials."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from sepnas.search.metric import metric_of
from sepnas.search.nni_import import FunctionalEvaluator, NasExperiment, NasExperimentConfig, nni
from sepnas.search.strategy import MultiObjectiveStrategy, PolicyModelSpace
from sepnas.separable.space import Choice, Genotype


class QuietExperiment(NasExperiment):  # type: ignore[misc]  # NNI has no types
    """An experiment that writes none of NNI's files: list in the home folder, log, checkpoint.

    The archive replaces the checkpoint, which torch >= 2.6 cannot load. ``engine`` replaces the configured engine.
    """

    engine: Any = None

    def execution_engine_factory(self, config: Any) -> Any:
        return self.engine or super().execution_engine_factory(config)

    def _start_without_nni_manager(self) -> None:
        pass

    def _stop_without_nni_manager(self) -> None:
        pass

    def _start_logging(self, debug: bool) -> None:
        pass

    def save_checkpoint(self) -> None:
        pass


def explore(
    choices: Mapping[str, tuple[Choice, ...]],
    strategy: MultiObjectiveStrategy[Any],
    evaluate: Callable[[Genotype], Mapping[str, float]],
    engine: Any = None,
) -> None:
    """Run the strategy over genotypes of these choices to its end; leaves no server, port or file behind.

    ``evaluate`` returns a genotype's accuracies by name, in this process; an ``engine`` replaces it.
    """

    def evaluate_model(model: PolicyModelSpace) -> None:
        started = time.perf_counter()
        accuracies = evaluate(model.genotype)
        seconds = time.perf_counter() - started
        nni.report_final_result(metric_of(model.genotype, accuracies, seconds))

    with tempfile.TemporaryDirectory(prefix="sepnas-nni-") as folder:
        config = NasExperimentConfig("sequential", "simplified")
        config.experiment_working_directory = folder
        config.max_trial_number = strategy.explorer.num_candidates
        model_space = PolicyModelSpace(choices)
        experiment = QuietExperiment(model_space, FunctionalEvaluator(evaluate_model), strategy, config=config)
        experiment.engine = engine
        try:
            experiment.start()  # `run` swallows Ctrl-C
        finally:
            experiment.stop()
