"""What is derived from a use of an operator, each once: a search asks for the same regions thousands of times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sepnas.plan.kinds.kind import Dims, GraphOperator, OperatorUse, Restriction
from sepnas.plan.kinds.terms import Terms
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region

MAX_PARTS = 1 << 14
"""Number of smaller uses of one use that are remembered; beyond it, all are forgotten."""


@dataclass(frozen=True)
class SmallerUse:
    """A use of an operator that computes a part of another use's output, or a partial result of all of it.

    ``shapes`` are the sizes of what it makes, of which ``found.crop`` is the region that was asked for. An opaque
    operator has no ``kind``.
    """

    kind: GraphOperator | None
    use: OperatorUse
    found: Restriction
    shapes: tuple[Dims, ...]

    @cached_property
    def macs(self) -> int:
        return self.kind.macs(self.use) if self.kind else 0

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """The operators by which it is priced."""
        return tuple(self.kind.priced(self.use)) if self.kind else ()


class DerivedUse:
    """A use of an operator of a registered kind."""

    def __init__(self, kind: GraphOperator, use: OperatorUse) -> None:
        self.kind, self.use = kind, use
        self._parts: dict[Region, SmallerUse] = {}
        self._partial: dict[Region, SmallerUse] = {}

    @cached_property
    def macs(self) -> int:
        return self.kind.macs(self.use)

    @cached_property
    def cuts(self) -> dict[int, int]:
        """See :meth:`GraphOperator.cuts`."""
        return dict(self.kind.cuts(self.use))

    @cached_property
    def terms(self) -> Terms | None:
        """See :meth:`GraphOperator.terms`."""
        return self.kind.terms(self.use)

    def part(self, region: Region) -> SmallerUse:
        """What computes exactly a region of the output."""
        found = self._parts.get(region)
        return found or self._kept(self._parts, region, self.kind.restrict(self.use, region))

    def partial(self, terms: Region) -> SmallerUse:
        """What joins these of the terms only."""
        found = self._partial.get(terms)
        return found or self._kept(self._partial, terms, self.kind.partial(self.use, terms))

    def _kept(self, known: dict[Region, SmallerUse], key: Region, found: Restriction) -> SmallerUse:
        if len(known) >= MAX_PARTS:
            known.clear()
        use = OperatorUse(found.attributes, {role: each.dims for role, each in found.inputs.items()})
        known[key] = made = SmallerUse(self.kind, use, found, (self.kind.output(use),))
        return made
