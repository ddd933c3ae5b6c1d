"""A start for groups of channels: spectral clustering of all atoms by the importances between them.

The atoms of all spaces are embedded by the leading eigenvectors of the normalised importances, found by subspace
iteration; the atoms of each space are then assigned to the nearest of one centre for each device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sepnas.separation.atoms import Labels
from sepnas.separation.dealing import Matrix, dealt

Between = Mapping[tuple[int, int], Matrix]
"""The importance of each atom of a space (columns) for each of another (rows), by the spaces' numbers."""
_ITERATIONS, _TRIES = 30, 4
_TINY = 1e-12


def spectral_start(between: Between, sizes: Sequence[Sequence[int]], generator: np.random.Generator) -> list[Labels]:
    """The device of each atom, by space; ``sizes`` are the number of atoms that each device gets of each space."""
    counts = [sum(each) for each in sizes]
    embedded = _embedded(between, counts, len(sizes[0]), generator)
    centres = _centres(np.vstack(embedded), len(sizes[0]), generator)
    return [dealt(own @ centres.T, slots) for own, slots in zip(embedded, sizes, strict=True)]


def _embedded(between: Between, counts: Sequence[int], width: int, generator: np.random.Generator) -> list[Matrix]:
    """A unit vector for each atom, by space."""
    degrees = [np.full(count, _TINY) for count in counts]
    for (target, source), matrix in between.items():
        degrees[target] += matrix.sum(1)
        degrees[source] += matrix.sum(0)
    roots = [np.sqrt(degree)[:, None] for degree in degrees]
    places = np.cumsum(counts)[:-1]
    found = [generator.normal(size=(count, width)) for count in counts]
    for _ in range(_ITERATIONS):
        moved = [each / 2 for each in found]
        for (target, source), matrix in between.items():
            moved[target] += matrix @ (found[source] / roots[source]) / roots[target]
            moved[source] += matrix.T @ (found[target] / roots[target]) / roots[source]
        # each space is dealt out evenly, so that what all of its atoms have in common tells nothing
        moved = [each - root * (root * each).sum(0) / (root**2).sum() for each, root in zip(moved, roots, strict=True)]
        found = np.split(np.linalg.qr(np.vstack(moved))[0], places)
        found = [
            each if each.shape[1] == width else np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in found
        ]
    return [_units(each) for each in found]


def _centres(points: Matrix, count: int, generator: np.random.Generator) -> Matrix:
    """Centres of so many clusters of unit vectors, the best of several tries of k-means."""
    best: tuple[float, Matrix] | None = None
    for _ in range(_TRIES):
        centres = points[generator.choice(len(points), count, replace=False)]
        for _ in range(_ITERATIONS):
            nearest = (points @ centres.T).argmax(1)
            sums = np.zeros_like(centres)
            np.add.at(sums, nearest, points)
            centres = _units(np.where(np.bincount(nearest, minlength=count)[:, None] > 0, sums, centres))
        value = float((points @ centres.T).max(1).sum())
        if best is None or value > best[0]:
            best = value, centres
    assert best is not None
    return best[1]


def _units(vectors: Matrix) -> Matrix:
    found: Matrix = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    return found
