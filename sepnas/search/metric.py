"""The metric that NNI passes from an evaluation to the strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepnas.separable.space import Genotype


def metric_of(genotype: Genotype, accuracies: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """A metric that NNI reads as one number (``default``), with the genotype and all its accuracies."""
    return {
        "default": accuracies["accuracy"],
        "accuracies": dict(accuracies),
        "genotype": dict(genotype),
        "seconds": seconds,
    }
