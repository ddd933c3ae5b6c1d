"""The multi-objective NNI strategy, and the model space that it explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

from sepnas.search.candidate import EvaluatedT
from sepnas.search.explorer import EvaluatedGenotype, Explorer
from sepnas.search.nni_import import ModelEventType, ModelSpace, Strategy, ensure_frozen, nni
from sepnas.separable.space import Choice


class PolicyModelSpace(ModelSpace):  # type: ignore[misc]  # NNI has no types
    """A search space as NNI sees it: one choice per label. A frozen space holds its ``genotype``."""

    def __init__(self, choices: Mapping[str, tuple[Choice, ...]]) -> None:
        super().__init__()
        self.genotype: dict[str, Choice] = {
            label: ensure_frozen(self.add_mutable(nni.choice(label, list(values)))) for label, values in choices.items()
        }


class MultiObjectiveStrategy(Strategy, Generic[EvaluatedT]):  # type: ignore[misc]  # NNI has no types
    """Explorer proposals, evaluated by NNI's engine batch by batch.

    The metric is that of :func:`sepnas.search.metric.metric_of`, not NNI's single number. Each result is matched by the
    genotype in it, because NNI may assign it to the wrong model.
    """

    def __init__(self, explorer: Explorer[EvaluatedT]) -> None:
        super().__init__()
        self.explorer = explorer
        self._models: list[Any] = []  # concurrent engines hold only weak references to models

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        engine.register_model_event_callback(ModelEventType.FinalMetric, self._on_metric)
        return model_space

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback(ModelEventType.FinalMetric, self._on_metric)

    def _run(self) -> None:
        while (batch := self.explorer.propose()) is not None:
            self._models = [self.model_space.freeze(proposal.genotype) for proposal in batch]
            if self._models:
                self.engine.submit_models(*self._models)
                self.engine.wait_models(*self._models)
            self.explorer.close()

    def _on_metric(self, event: Any) -> None:
        metric = event.metric
        self.explorer.take(EvaluatedGenotype(metric["genotype"], metric["accuracies"], metric["seconds"]))

    def state_dict(self) -> dict[str, Any]:
        """Empty: the archive is the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
