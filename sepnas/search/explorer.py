"""The course of a search, whoever evaluates: propose a batch, take what was judged, tell the proposer.

The proposer hears a batch as a whole and in the order in which it was proposed, so the result does not depend on
how many evaluate side by side, or which of them is first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from sepnas.errors import SearchError
from sepnas.objectives import Bounds
from sepnas.search.archive import Archive
from sepnas.search.candidate import Candidate
from sepnas.search.screen import Screened
from sepnas.separable.space import Choice, Genotype

StrategyName = Literal["predictive", "evolution", "nsga2", "random", "regularized-evolution"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
"""The default, the same without its predictor, plain NSGA-II, and two of NNI's own, which see one number."""
BATCH = 8
TRIES_IN_VAIN = 1000
"""After so many proposals in a row that are known or infeasible the space counts as exhausted."""


NO_BOUNDS = Bounds()


class Proposer(Protocol):
    """Where candidates come from: each proposal is new, feasible and already priced."""

    def propose(self) -> Screened | None: ...

    def tell(self, key: str, objectives: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class Judged:
    """What an evaluation says; it repeats the genotype, for an engine may pair answers wrongly."""

    genotype: Genotype
    accuracies: Mapping[str, float]
    duration_s: float


class Explorer:
    """Asks a proposer for batches and keeps every answer in the archive at once.

    What the archive knows is not evaluated again: that is how a search resumes.
    """

    def __init__(
        self,
        proposer: Proposer,
        archive: Archive,
        objectives: tuple[str, ...],
        num_candidates: int,
        on_candidate: Callable[[Candidate, bool], None],
        batch_size: int = BATCH,
        bounds: Bounds = NO_BOUNDS,
    ) -> None:
        """``bounds`` are those of the space on what is judged."""
        self.proposer, self.archive, self.objectives = proposer, archive, objectives
        self.num_candidates, self.batch_size = num_candidates, batch_size
        self.on_candidate, self.bounds = on_candidate, bounds
        self.candidates: list[Candidate] = []
        self._batch: list[Screened] = []
        self._fresh: set[str] = set()
        self._awaited: dict[frozenset[tuple[str, Choice]], tuple[int, Screened]] = {}

    def propose(self) -> list[Screened] | None:
        """What is to be evaluated next (nothing, where the archive knows the whole batch); None at the end."""
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

    def awaited(self) -> list[Screened]:
        """What of the batch is not judged yet."""
        return [proposal for _, proposal in self._awaited.values()]

    def take(self, judged: Judged) -> None:
        """Keep an answer, in any order; one that nobody waits for (a repeated evaluation) is dropped."""
        found = self._awaited.pop(_identity(judged.genotype), None)
        if found is None:
            return
        index, proposal = found
        measured = {**proposal.costs, **judged.accuracies}
        candidate = Candidate(
            index=index,
            key=proposal.key,
            genotype=proposal.genotype,
            objectives={name: measured[name] for name in self.objectives},
            costs=proposal.costs,
            seconds=judged.duration_s,
            architecture=proposal.architecture,
            excess=self.bounds.excess(measured),
        )
        self.archive.append(candidate)
        self._fresh.add(candidate.key)
        self.on_candidate(candidate, True)

    def close(self) -> None:
        """End the batch: tell the proposer, in order. Raises :class:`SearchError` when an answer is missing."""
        if self._awaited:
            raise SearchError(
                f"{len(self._awaited)} of {len(self._batch)} candidates were not judged; resume the search"
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
