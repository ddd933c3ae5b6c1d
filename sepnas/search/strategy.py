"""The NNI strategy for many objectives, and the model space that it explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepnas.search.explorer import Explorer, Judged
from sepnas.search.nni_import import ModelEventType, ModelSpace, Strategy, ensure_frozen, nni
from sepnas.separable.space import Choice


class PolicyModelSpace(ModelSpace):  # type: ignore[misc]  # NNI has no types
    """A search space as NNI sees it: one choice for each label. A frozen one holds its ``genotype``."""

    def __init__(self, choices: Mapping[str, tuple[Choice, ...]]) -> None:
        super().__init__()
        self.genotype: dict[str, Choice] = {
            label: ensure_frozen(self.add_mutable(nni.choice(label, list(values)))) for label, values in choices.items()
        }


class MultiObjectiveStrategy(Strategy):  # type: ignore[misc]  # NNI has no types
    """Lets an explorer choose and NNI's engine evaluate, batch by batch.

    NNI's own strategies see one number; here the metric is that of :func:`sepnas.search.metric.metric_of`, and an
    answer belongs to the genotype that it repeats (NNI may pair them wrongly).
    """

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.explorer = explorer
        self._models: list[Any] = []  # engines that work beside us hold models by weak reference only

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
        self.explorer.take(Judged(metric["genotype"], metric["accuracies"], metric["seconds"]))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the archive is the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
