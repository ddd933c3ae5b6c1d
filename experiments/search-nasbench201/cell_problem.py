"""The benchmark's cells as strategies explore them: look-ups instead of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from cells import EDGES, OPERATIONS, Cell, Skeleton

from sepnas.search.pareto import Points
from sepnas.search.problem import Features, Genes
from sepnas.separable.space import Genotype

LABELS = tuple(f"edge{node}{source}" for node, source in EDGES)
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""The edges of each path from the cell's input, node 0, to its output, node 3."""
COSTS = {"macs": Skeleton.macs, "parameters": Skeleton.parameters, "exchanged_bytes": Skeleton.exchanged_bytes}
DENSEST, EMPTIEST = (Cell((operation,) * len(EDGES)) for operation in (OPERATIONS[-1], OPERATIONS[0]))


@dataclass(frozen=True)
class PricedCell:
    """A cell and its costs; all cells are feasible."""

    cell: Cell
    costs: dict[str, float]
    excess: dict[str, float] = field(default_factory=dict)
    feasible: bool = True

    @property
    def key(self) -> str:
        return self.cell.text

    @property
    def genotype(self) -> dict[str, str]:
        return dict(zip(LABELS, self.cell.operations, strict=True))


class CellProblem:
    """Accuracy against ``costs`` (names of ``COSTS``), each as a share of the cell of 3x3 convolutions only.

    Implements :class:`sepnas.search.problem.Problem`.
    """

    def __init__(self, skeleton: Skeleton, costs: tuple[str, ...]) -> None:
        self.skeleton = skeleton
        self.choices = dict.fromkeys(LABELS, OPERATIONS)
        self.directions = {"accuracy": "maximize", **dict.fromkeys(costs, "minimize")}
        self.evaluated = ("accuracy",)
        self.first = [PricedCell(cell, {}).genotype for cell in (DENSEST, EMPTIEST)]
        self.worst = {name: COSTS[name](skeleton, DENSEST) for name in costs}

    def price(self, genotype: Genotype) -> PricedCell:
        return self.price_cell(Cell(tuple(str(genotype[label]) for label in LABELS)))

    def price_cell(self, cell: Cell) -> PricedCell:
        return PricedCell(cell, {name: COSTS[name](self.skeleton, cell) for name in self.worst})

    def describe(self, priced: PricedCell, genes: Genes) -> Features:
        """For each path from the cell's input to its output that no `none` cuts: how often it has each operation.

        (Paths describe a cell better than its edges do: White et al., BANANAS, arXiv 1910.11858.) Then the costs.
        """
        found: list[float] = []
        for path in PATHS:
            operations = [priced.cell.operations[edge] for edge in path]
            whole = "none" not in operations
            found += [whole, *(whole * operations.count(name) for name in OPERATIONS if name != "none")]
        shares = [priced.costs[name] / worst for name, worst in self.worst.items()]
        return np.array([*found, *shares], dtype=np.float32)

    def scale(self, measured: Mapping[str, float]) -> Points:
        costs = [measured[name] / worst for name, worst in self.worst.items()]
        return np.array([1 - measured["accuracy"], *costs])

    def excess(self, measured: Mapping[str, float]) -> float:
        """There are no bounds."""
        return 0.0
