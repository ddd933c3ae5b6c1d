"""What a strategy explores: choices to make, costs that are known before the evaluation, and a scale for objectives.

A strategy that knows only this runs on any space: on the networks and policies of sepnas
(:class:`sepnas.search.policy_problem.PolicyProblem`), or on the table of a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sepnas.objectives import Direction
from sepnas.search.pareto import Points
from sepnas.separable.space import Choice, Genotype

Features = NDArray[np.float32]
Genes = NDArray[np.int64]
"""A genotype as the index of each choice."""


class Priced(Protocol):
    """A genotype and its costs. Equal ``key``: the same candidate. ``excess``: the violation of each broken bound."""

    @property
    def genotype(self) -> Genotype: ...
    @property
    def key(self) -> str: ...
    @property
    def costs(self) -> Mapping[str, float]: ...
    @property
    def excess(self) -> Mapping[str, float]: ...
    @property
    def feasible(self) -> bool: ...


PricedT = TypeVar("PricedT", bound=Priced)


class Problem(Protocol[PricedT]):
    """A space to explore, with the objectives by name.

    ``directions`` has all objectives, in order; those in ``evaluated`` are expensive, with values from 0 to 1, and the
    others are costs. ``first`` is worth an evaluation before anything is known.
    """

    @property
    def choices(self) -> Mapping[str, tuple[Choice, ...]]: ...
    @property
    def directions(self) -> Mapping[str, Direction]: ...
    @property
    def evaluated(self) -> tuple[str, ...]: ...
    @property
    def first(self) -> Sequence[Genotype]: ...

    def price(self, genotype: Genotype) -> PricedT:
        """The candidate with its costs, without an evaluation."""

    def describe(self, priced: PricedT, genes: Genes) -> Features:
        """What the evaluated objectives are predicted from."""

    def scale(self, measured: Mapping[str, float]) -> Points:
        """The objectives, in order, on scales from 0 (ideal) to 1 (worst), on which hypervolume is gained."""

    def excess(self, measured: Mapping[str, float]) -> float:
        """The violation of bounds on evaluated objectives; 0 if there is none."""
