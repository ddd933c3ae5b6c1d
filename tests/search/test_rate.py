"""How quickly candidates are lowered and simulated."""

from __future__ import annotations

from pathlib import Path

from sepnas.search.rate import simulation_rate
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster


def test_candidates_of_a_space_have_a_rate() -> None:
    """At least one candidate is simulated, and their number is told for a second."""
    space = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")
    assert simulation_rate(space, uniform_cluster(3), seed=0, sample_s=0.05) > 0
