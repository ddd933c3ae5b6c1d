"""From logits to class names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def likeliest(logits_BK: npt.ArrayLike, classes: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
    """The ``top`` most likely classes of each image with their probabilities, in descending order."""
    logits = np.asarray(logits_BK, dtype=np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    order = np.argsort(-probabilities, axis=1)[:, :top]
    return [[(classes[k], float(row[k])) for k in best] for row, best in zip(probabilities, order, strict=True)]
