"""Merge rules: how a device combines its own tensor with received messages. One ``Merger`` for each rule.

The result has the shape of the device's own tensor; a message may hold only the first channels of its sender's. With
``mean`` and ``weighted`` it affects these channels only, with ``concat`` all.
A rule is written once, in the few operations of :class:`MergeOperations`: devices execute it in numpy
(``sepnas.plan.merges``), training in torch (``sepnas.nets.exchange``), and sample by sample if devices are lost
(``sepnas.nets.outage``). So a new rule is one entry here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

OwnT = TypeVar("OwnT")
PartT = TypeVar("PartT")


class MergeOperations(Protocol[OwnT, PartT]):
    """``OwnT``: a whole tensor ``(B, channels, ...)``; ``PartT``: the first channels of some samples, as received."""

    def add(self, own: OwnT, parts: Sequence[PartT]) -> OwnT:
        """``own`` plus each part on its channels and samples, in this order; ``own`` is not modified."""
        ...

    def minus(self, part: PartT, own: OwnT) -> PartT:
        """A part minus the same channels and samples of ``own``."""
        ...

    def times(self, weight: Any, part: PartT) -> PartT: ...

    def divide_by_counts(self, total: OwnT, parts: Sequence[PartT]) -> OwnT:
        """Each value divided by its number of summands: one more than the number of parts that hold it."""
        ...

    def convolve(self, own: OwnT, parts: Sequence[PartT], weights: Sequence[Any]) -> OwnT:
        """``own`` plus each part's 1x1 convolution: a weight has a row for each channel of ``own`` and a column for
        each of the part, or more columns, of which the first are taken."""
        ...


class MergeFunction(Protocol):
    """Signature of a rule; ``weights`` has one number, or one matrix, for each part if the rule is learned."""

    def __call__(
        self, operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
    ) -> OwnT: ...


@dataclass(frozen=True)
class Merger:
    """The facts of a rule: its name in policies and spaces, its arithmetic, and whether messages have learned weights.

    A learned rule has one number for each message (initially the mean's), or, if it ``convolves``, one for each channel
    of the own tensor and each of the message (initially 0, as if nothing were sent). ``kind`` is its name in plans.
    """

    name: str
    merge: MergeFunction
    learned: bool = False
    convolves: bool = False
    kind_name: str = ""

    @property
    def kind(self) -> str:
        return self.kind_name or self.name


def _mean(
    operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    """For each value, the mean of the tensors that hold it."""
    return operations.divide_by_counts(operations.add(own, parts), parts)


def _weighted(
    operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    """``own + sum_j weight_j (part_j - own)``."""
    differences = [
        operations.times(weight, operations.minus(part, own)) for part, weight in zip(parts, weights, strict=True)
    ]
    return operations.add(own, differences)


def _concat(
    operations: MergeOperations[OwnT, PartT], own: OwnT, parts: Sequence[PartT], weights: Sequence[Any], /
) -> OwnT:
    """``own + sum_j weight_j part_j``: a 1x1 convolution of all channels, with the identity for its own.

    Any layer that reads the concatenation is this one, followed by a layer that reads the device's own channels.
    """
    return operations.convolve(own, parts, weights)


# in increasing strength: if messages of two exchange points meet in one merge, the later rule applies
_MERGERS = (
    Merger("mean", _mean),
    Merger("weighted", _weighted, learned=True),
    # plans have another kind `concat`, which joins tensors and computes nothing
    Merger("concat", _concat, learned=True, convolves=True, kind_name="convolve"),
)

MERGERS: dict[str, Merger] = {merger.name: merger for merger in _MERGERS}
MERGERS_BY_KIND: dict[str, Merger] = {merger.kind: merger for merger in _MERGERS}
MERGE_RULES: tuple[str, ...] = tuple(MERGERS)

if TYPE_CHECKING:
    MergeRule: TypeAlias = str
else:
    MergeRule = Literal[MERGE_RULES]  # fields of this type refuse any other name, and list these

LEARNED_RULES: tuple[MergeRule, ...] = tuple(merger.name for merger in _MERGERS if merger.learned)

STRENGTH: Mapping[MergeRule, int] = {name: place for place, name in enumerate(MERGE_RULES)}
"""The index of each rule in ``MERGE_RULES``."""


def strongest(rules: Iterable[MergeRule]) -> MergeRule:
    """The rule that applies if messages with these rules meet in one merge."""
    return MERGE_RULES[max(map(STRENGTH.__getitem__, rules))]
