"""The NNI strategy for many objectives, and the model space that it explores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sepnas.search.archive import Archive
from sepnas.search.candidate import Candidate
from sepnas.search.nni_import import ModelEventType, ModelSpace, Strategy, ensure_frozen, nni
from sepnas.search.screen import Screened
from sepnas.spec.space import Choice


class Proposer(Protocol):
    """Where candidates come from: each proposal is new, feasible and already priced."""

    def propose(self) -> Screened | None: ...

    def tell(self, key: str, objectives: Mapping[str, float]) -> None: ...


class PolicyModelSpace(ModelSpace):  # type: ignore[misc]  # NNI has no types
    """A search space as NNI sees it: one choice for each label. A frozen one holds its ``genotype``."""

    def __init__(self, choices: Mapping[str, tuple[Choice, ...]]) -> None:
        super().__init__()
        self.genotype: dict[str, Choice] = {
            label: ensure_frozen(self.add_mutable(nni.choice(label, list(values)))) for label, values in choices.items()
        }


class MultiObjectiveStrategy(Strategy):  # type: ignore[misc]  # NNI has no types
    """Lets a proposer choose, NNI's engine evaluate, and keeps every answer in the archive at once.

    NNI's own strategies see one number; here the metric is the dictionary ``{"default": accuracy, "genotype": ...,
    "seconds": ...}``, and an answer belongs to the genotype that it repeats (NNI may pair them wrongly).
    What the archive knows is not evaluated again: that is how a search resumes.
    """

    def __init__(
        self,
        proposer: Proposer,
        archive: Archive,
        objectives: tuple[str, ...],
        num_candidates: int,
        on_candidate: Callable[[Candidate, bool], None],
    ) -> None:
        super().__init__()
        self.proposer, self.archive, self.objectives = proposer, archive, objectives
        self.num_candidates, self.on_candidate = num_candidates, on_candidate
        self.candidates: list[Candidate] = []
        self._awaited: dict[frozenset[tuple[str, Choice]], tuple[int, Screened]] = {}
        self._models: list[Any] = []  # engines that work beside us hold models by weak reference only

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        engine.register_model_event_callback(ModelEventType.FinalMetric, self._on_metric)
        return model_space

    def _cleanup(self) -> None:
        self.engine.unregister_model_event_callback(ModelEventType.FinalMetric, self._on_metric)

    def _run(self) -> None:
        while len(self.candidates) + len(self._awaited) < self.num_candidates:
            proposal = self.proposer.propose()
            if proposal is None:
                break
            known = self.archive.get(proposal.key)
            if known is None:
                self._submit(proposal)
            else:
                self._finish(known, fresh=False)
        self.engine.wait_models()

    def _submit(self, proposal: Screened) -> None:
        index = len(self.candidates) + len(self._awaited)
        self._awaited[frozenset(proposal.genotype.items())] = (index, proposal)
        model = self.model_space.freeze(proposal.genotype)
        self._models.append(model)
        self.engine.submit_models(model)

    def _on_metric(self, event: Any) -> None:
        metric = event.metric
        index, proposal = self._awaited.pop(frozenset(metric["genotype"].items()))
        measured = {**proposal.costs, "accuracy": metric["default"]}
        candidate = Candidate(
            index=index,
            key=proposal.key,
            genotype=proposal.genotype,
            objectives={name: measured[name] for name in self.objectives},
            costs=proposal.costs,
            seconds=metric["seconds"],
            architecture=proposal.architecture,
        )
        self.archive.append(candidate)
        self._finish(candidate, fresh=True)

    def _finish(self, candidate: Candidate, fresh: bool) -> None:
        self.candidates.append(candidate)
        self.proposer.tell(candidate.key, candidate.objectives)
        self.on_candidate(candidate, fresh)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the archive is the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
