"""The search loop, independent of the evaluator: propose a batch, collect results, update the proposer.

The proposer receives the results of a whole batch in the order of proposal, so the outcome depends neither on the
number of parallel evaluations nor on the order in which they finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, get_args

from sepnas.errors import SearchError
from sepnas.objectives import Bounds
from sepnas.search.archive import Archive
from sepnas.search.candidate import Evaluated, EvaluatedT
from sepnas.search.problem import Priced
from sepnas.separable.space import Choice, Genotype

StrategyName = Literal["predictive", "evolution", "nsga2", "random", "regularized-evolution"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
"""The default, the same without predictor, plain NSGA-II, and two single-objective strategies of NNI."""
BATCH = 8
TRIES_IN_VAIN = 1000
"""Number of consecutive known or infeasible proposals after which the space counts as exhausted."""


NO_BOUNDS = Bounds()


MadeT = TypeVar("MadeT", bound=Evaluated, covariant=True)
ProposedT = TypeVar("ProposedT", covariant=True)


class ProposedCandidate(Priced, Protocol[MadeT]):
    """A priced genotype that becomes a candidate once it is evaluated."""

    def candidate(self, index: int, objectives: Mapping[str, float], seconds: float, excess: float) -> MadeT: ...


class Proposer(Protocol[ProposedT]):
    """A source of candidates: each proposal is new, feasible and already priced."""

    def propose(self) -> ProposedT | None: ...

    def tell(self, key: str, objectives: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class EvaluatedGenotype:
    """The result of an evaluation, with its genotype, because an engine may match results to the wrong model."""

    genotype: Genotype
    accuracies: Mapping[str, float]
    duration_s: float


class Explorer(Generic[EvaluatedT]):
    """Requests batches from a proposer and archives every result immediately.

    Archived candidates are not evaluated again; this is how a search resumes.
    """

    def __init__(
        self,
        proposer: Proposer[ProposedCandidate[EvaluatedT]],
        archive: Archive[EvaluatedT],
        objectives: tuple[str, ...],
        num_candidates: int,
        on_candidate: Callable[[EvaluatedT, bool], None],
        batch_size: int = BATCH,
        bounds: Bounds = NO_BOUNDS,
    ) -> None:
        """``bounds`` are the space's bounds on accuracies."""
        self.proposer, self.archive, self.objectives = proposer, archive, objectives
        self.num_candidates, self.batch_size = num_candidates, batch_size
        self.on_candidate, self.bounds = on_candidate, bounds
        self.candidates: list[EvaluatedT] = []
        self._batch: list[ProposedCandidate[EvaluatedT]] = []
        self._fresh: set[str] = set()
        self._awaited: dict[frozenset[tuple[str, Choice]], tuple[int, ProposedCandidate[EvaluatedT]]] = {}

    def propose(self) -> list[ProposedCandidate[EvaluatedT]] | None:
        """The next candidates to evaluate (empty if all of the batch is archived); None at the end."""
        wanted = min(self.batch_size, self.num_candidates - len(self.candidates))
        self._batch = []
        while len(self._batch) < wanted and (found := self.proposer.propose()) is not None:
            self._batch.append(found)
        first = len(self.candidates)
        self._awaited = {
            _identity(proposal.genotype): (first + offset, proposal)
            for offset, proposal in enumerate(self._batch)
            if self.archive.get(proposal.key) is None
        }
        return [proposal for _, proposal in self._awaited.values()] if self._batch else None

    def awaited(self) -> list[ProposedCandidate[EvaluatedT]]:
        """The candidates of the batch without a result."""
        return [proposal for _, proposal in self._awaited.values()]

    def take(self, evaluated: EvaluatedGenotype) -> None:
        """Archive a result, in any order; an unexpected one (a repeated evaluation) is dropped."""
        found = self._awaited.pop(_identity(evaluated.genotype), None)
        if found is None:
            return
        index, proposal = found
        measured = {**proposal.costs, **evaluated.accuracies}
        objectives = {name: measured[name] for name in self.objectives}
        candidate = proposal.candidate(index, objectives, evaluated.duration_s, self.bounds.excess(measured))
        self.archive.append(candidate)
        self._fresh.add(candidate.key)
        self.on_candidate(candidate, True)

    def close(self) -> None:
        """End the batch: pass the results to the proposer in order. Raises :class:`SearchError` if one is missing."""
        if self._awaited:
            raise SearchError(
                f"{len(self._awaited)} of {len(self._batch)} candidates were not evaluated; resume the search"
            )
        for proposal in self._batch:
            candidate = self.archive.get(proposal.key)
            assert candidate is not None
            self.candidates.append(candidate)
            self.proposer.tell(candidate.key, candidate.objectives)
            if candidate.key not in self._fresh:
                self.on_candidate(candidate, False)


def _identity(genotype: Genotype) -> frozenset[tuple[str, Choice]]:
    return frozenset(genotype.items())
