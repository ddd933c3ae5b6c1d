"""Merge rules: what a device makes of its own tensor and of the messages that arrived. One ``Merger`` for each.

The result has the shape of the device's own tensor; a message may hold its first channels only, and touches no others.
A rule is written once, in the few operations of :class:`MergeOperations`: devices carry it out in numpy
(``sepnas.plan.merges``), training in torch (``sepnas.nets.exchange``), and sample by sample where devices are lost
(``sepnas.nets.outage``). So a new rule is one entry here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

OwnT = TypeVar("OwnT")
PartT = TypeVar("PartT")


class MergeOperations(Protocol[OwnT, PartT]):
    """``OwnT``: a whole tensor ``(B, channels, ...)``; ``PartT``: what arrived, its first channels, of some samples."""

    def add(self, own: OwnT, parts: Sequence[PartT]) -> OwnT:
        """``own`` and each part on the channels and samples that it holds, in this order; ``own`` stays as it is."""
        ...

    def minus(self, part: PartT, own: OwnT) -> PartT:
        """A part less what ``own`` has there."""
        ...

    def times(self, weight: Any, part: PartT) -> PartT: ...

    def divide_by_counts(self, total: OwnT, parts: Sequence[PartT]) -> OwnT:
        """Each value over the number of summands that it has: one more than there are parts that hold it."""
        ...


class MergeFunction(Protocol):
    """``weights``: one number for each part, where the rule is learned."""

    def __call__(
        self, operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
    ) -> OwnT: ...


@dataclass(frozen=True)
class Merger:
    """The facts of a rule: its name in policies and spaces, its arithmetic, and whether each message has a learned
    weight (which starts as the mean's)."""

    name: str
    merge: MergeFunction
    learned: bool = False


def _mean(
    operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    """Of each value the mean of the tensors that hold it."""
    return operations.divide_by_counts(operations.add(own, parts), parts)


def _weighted(
    operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    """``own + sum_j weight_j (part_j - own)``."""
    differences = [
        operations.times(weight, operations.minus(part, own)) for part, weight in zip(parts, weights, strict=True)
    ]
    return operations.add(own, differences)


# where messages of two exchange points meet in one merge, the later rule of the two holds
_MERGERS = (
    Merger("mean", _mean),
    Merger("weighted", _weighted, learned=True),
)

MERGERS: dict[str, Merger] = {merger.name: merger for merger in _MERGERS}
MERGE_RULES: tuple[str, ...] = tuple(MERGERS)

if TYPE_CHECKING:
    MergeRule: TypeAlias = str
else:
    MergeRule = Literal[MERGE_RULES]  # fields of this type refuse any other name, and list these

LEARNED_RULES: tuple[MergeRule, ...] = tuple(merger.name for merger in _MERGERS if merger.learned)

STRENGTH: Mapping[MergeRule, int] = {name: place for place, name in enumerate(MERGE_RULES)}
"""The place of each rule in ``MERGE_RULES``."""


def strongest(rules: Iterable[MergeRule]) -> MergeRule:
    """The rule that holds where messages with these rules meet."""
    return MERGE_RULES[max(map(STRENGTH.__getitem__, rules))]
