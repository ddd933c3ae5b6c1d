"""Genotypes as integer vectors, with crossover and mutation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sepnas.search.problem import Genes
from sepnas.separable.space import Choice, Genotype

CROSSOVER = 0.5
MAX_MUTATIONS = 3


class GenePool:
    """Draws and breeds genotypes; each gene is the index of a choice. The same seed gives the same genotypes.

    Uniform crossover, and mutation of about one to three genes. Optuna's NSGA-II takes 4 ms per child for 60 labels,
    too slow to select one of many children; this takes some hundredths of a millisecond.
    """

    def __init__(self, choices: Mapping[str, tuple[Choice, ...]], seed: int) -> None:
        self.choices = choices
        self.counts = np.array([len(values) for values in self.choices.values()])
        self.random = np.random.default_rng(seed)

    def genes(self, genotype: Genotype) -> Genes:
        return np.array([values.index(genotype[label]) for label, values in self.choices.items()])

    def genotype(self, genes: Genes) -> dict[str, Choice]:
        return {label: values[gene] for (label, values), gene in zip(self.choices.items(), genes, strict=True)}

    def draw(self) -> Genes:
        """A genotype drawn uniformly from the choices of every label."""
        return self.random.integers(self.counts)

    def breed(self, parents: Sequence[Genes]) -> Genes:
        """A child of one or two parents, with at least one mutated gene."""
        child = parents[int(self.random.integers(len(parents)))].copy()
        if self.random.random() < CROSSOVER:
            other = parents[int(self.random.integers(len(parents)))]
            child = np.where(self.random.random(len(child)) < 0.5, child, other)
        rate = self.random.integers(1, MAX_MUTATIONS + 1) / len(child)
        changed = self.random.random(len(child)) < rate
        changed[self.random.integers(len(child))] = True
        return np.where(changed, self.draw(), child)
