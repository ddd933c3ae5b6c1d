"""An NNI execution engine for NNI's trials: a batch of candidates per trial, resubmitted if lost."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping
from typing import Any

from sepnas.errors import SearchError
from sepnas.search.nni_import import ExecutionEngine, FinalMetricEvent, ModelStatus, TrainingEndEvent
from sepnas.search.trials.manager import Ended, NniManager, Over, TrialMetric
from sepnas.separable.space import Choice

TRIES = 3
LOOK_INTERVAL_S = 5.0

Identity = frozenset[tuple[str, Choice]]


class TrialsEngine(ExecutionEngine):  # type: ignore[misc]  # NNI has no types
    """Evaluates the models of a batch in parallel, and returns when each has a result.

    A result is matched by the genotype in it, and passed on immediately. Models without a result are resubmitted when
    all trials have ended, or after ``patience_s`` without any result. After three rounds without any result it raises
    :class:`SearchError` with the reason.
    """

    def __init__(
        self, start: Callable[[], NniManager], workers: int, patience_s: float, say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.start, self.workers, self.patience_s, self.say = start, workers, patience_s, say
        self.manager: NniManager | None = None

    def submit_models(self, *models: Any) -> None:
        waiting: dict[Identity, Any] = {frozenset(model.sample.items()): model for model in models}
        vain = 0
        while waiting:
            before = len(waiting)
            problem = self._round(waiting)
            vain = vain + 1 if len(waiting) == before else 0
            if vain == TRIES:
                raise SearchError(
                    f"{len(waiting)} candidates could not be evaluated in {TRIES} tries; all others are kept: resume "
                    f"the search once this is fixed: {problem}"
                )

    def wait_models(self, *models: Any) -> None:
        """Do nothing: ``submit_models`` has already waited."""

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return True

    def shutdown(self) -> None:
        if self.manager is not None:
            self.manager.stop()
            self.manager = None

    def _round(self, waiting: dict[Identity, Any]) -> str:
        """Submit the waiting models and take results until no more are expected; returns the problem as text."""
        try:
            self.manager = manager = self.manager or self.start()
        except SearchError as error:
            return str(error)
        manager.complaint = ""
        genotypes = [model.sample for model in waiting.values()]
        parts = [part for index in range(self.workers) if (part := genotypes[index :: self.workers])]
        running = {manager.submit({"genotypes": part}) for part in parts}
        heard_at = time.monotonic()
        while waiting and running:
            self._tell(manager)
            try:
                event = manager.events.get(timeout=LOOK_INTERVAL_S)
            except queue.Empty:
                if time.monotonic() - heard_at > self.patience_s:
                    return self._give_up(f"no trial reported for {self.patience_s:.0f} s")
                if not manager.is_sound():
                    return self._give_up("NNI's server failed")
                continue
            if isinstance(event, TrialMetric):
                heard_at = time.monotonic()
                self._take(event, waiting)
            elif isinstance(event, Ended):
                running.discard(event.number)
            elif isinstance(event, Over):
                return self._give_up("NNI's server ended")
        return manager.complaint or "the trials ended without a result"

    def _take(self, answer: TrialMetric, waiting: dict[Identity, Any]) -> None:
        identity = _identity_of(answer.metric)
        model = None if identity is None else waiting.pop(identity, None)
        if model is not None:
            self.dispatch_model_event(FinalMetricEvent(model, answer.metric))
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))

    def _give_up(self, reason: str) -> str:
        """Stop a failed manager; returns the reason with its output."""
        assert self.manager is not None
        self._tell(self.manager)
        found = [*self.manager.said, self.manager.complaint, self.manager.log()]
        self.shutdown()
        return "\n".join([reason, *filter(None, found)])

    def _tell(self, manager: NniManager) -> None:
        for text in manager.news():
            self.say(text)


def _identity_of(metric: Mapping[str, Any]) -> Identity | None:
    """The genotype that a metric claims to be of; None if it is malformed, since any machine may send metrics."""
    try:
        numbers = [metric["seconds"], *metric.get("accuracies", {}).values()]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            return None
        return frozenset(metric["genotype"].items())
    except (KeyError, AttributeError, TypeError):
        return None
