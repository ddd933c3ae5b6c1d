"""The benchmark's accuracies of one data set, and what a search's findings are worth beside its exact front."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import moocore
import numpy as np
from cell_problem import CellProblem, PricedCell
from cells import EDGES, OPERATIONS, Cell, Skeleton
from pickled import read_pickled

from sepnas.errors import SpecError
from sepnas.spec.document import read_data, write_text

SHA256 = "bda800741eea1512fab0ed771f19c8fde06c266db3bbf4690ab5921f621877fe"
DATA_SETS = {
    "cifar10-val": Skeleton(32, 10),
    "cifar100-val": Skeleton(32, 100),
    "imagenet-val": Skeleton(16, 120),
    "cifar100-test": Skeleton(32, 100),
}
"""Columns of the table, and the networks that they were measured with. ImageNet is its 120 classes at 16 pixels."""
NUM_CELLS = len(OPERATIONS) ** len(EDGES)


def read_accuracies(path: Path) -> dict[str, dict[str, float]]:
    """For each data set the accuracy of every cell, from 0 to 1; ``path`` is the pickled table or its JSON.

    A pickled table must be the published one. Raises :class:`SpecError` that names the file and what is wrong.
    """
    if path.suffix == ".json":
        return _checked(path, read_data(path))
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
        raise SpecError(f"{path}: its sha256 is {found}; allowed: {SHA256}, the published table")
    table = read_pickled(path)
    columns = {name: [value / 100 for value in table[name]] for name in DATA_SETS}
    return _checked(path, {name: dict(zip(table["cellstr"], values, strict=True)) for name, values in columns.items()})


def write_json(accuracies: dict[str, dict[str, float]], path: Path) -> None:
    """Write what :func:`read_accuracies` reads."""
    write_text(path, json.dumps(accuracies) + "\n")


def _checked(path: Path, found: Any) -> dict[str, dict[str, float]]:
    for name in DATA_SETS:
        column = found.get(name) if isinstance(found, dict) else None
        if not isinstance(column, dict) or len(column) != NUM_CELLS:
            raise SpecError(f"{path}: `{name}` must have the accuracy of each of {NUM_CELLS} cells")
        for text, value in column.items():
            Cell.parse(text)
            if not isinstance(value, float) or not 0 <= value <= 1:
                raise SpecError(f"{path}: `{name}` of {text} must be within 0..1, got {value!r}")
    return found


class Benchmark:
    """One data set with the objectives accuracy and ``costs``."""

    def __init__(self, accuracies: dict[str, float], skeleton: Skeleton, costs: tuple[str, ...]) -> None:
        self.accuracies, self.problem = accuracies, CellProblem(skeleton, costs)

    def measure(self, priced: PricedCell) -> dict[str, float]:
        """The objectives of a cell; this is what counts as an evaluation."""
        return {"accuracy": self.accuracies[priced.key], **priced.costs}

    def points(self, texts: list[str]) -> np.ndarray:
        """A row for each cell, as shares from 0 (ideal) to 1."""
        priced = (self.problem.price_cell(Cell.parse(text)) for text in texts)
        return np.stack([self.problem.scale(self.measure(each)) for each in priced])

    @cached_property
    def exact(self) -> float:
        """The hypervolume of all cells: of the exact front."""
        return _volume(self.points(list(self.accuracies)))

    def shares(self, texts: list[str]) -> np.ndarray:
        """The share of the exact hypervolume after each of the evaluations."""
        points, front, found = self.points(texts), np.empty((0, 1 + len(self.problem.worst))), []
        for point in points:
            if not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
            found.append(_volume(front) / self.exact)
        return np.array(found)


def _volume(points: np.ndarray) -> float:
    return float(moocore.hypervolume(points, ref=[1.0] * points.shape[1]))
