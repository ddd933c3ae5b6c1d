"""The contract of an objective."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pytest

from sepnas.cost.simulator import Simulation, simulate
from sepnas.objectives import OBJECTIVES, Bound, Objective
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Power, uniform_cluster

PRECISION = 5e-3
"""Largest relative change of a value that is formatted, with three digits, and parsed again."""
_NUM_DEVICES = 4
_SMALL, _LARGE = (1.0, 1e-1, 1e-3, 1e-5), (1e2, 1e4, 1e8)
"""Magnitudes of the values to format and parse; a share is never larger than 1."""


class ObjectiveContract:
    """Fixture: ``objective`` is an :class:`sepnas.objectives.Objective` in ``OBJECTIVES``."""

    @pytest.fixture
    def cases(self, objective: Objective) -> list[list[float]]:
        """Values from real simulations or from answers; each list goes from better to worse."""
        return list(ranked_values(objective))

    def test_its_values_are_finite_and_none_is_negative(self, objective: Objective, cases: list[list[float]]) -> None:
        """Every value lies between 0 and the largest value of its quantity."""
        highest = objective.quantity.highest or math.inf
        assert all(0 <= value <= highest and math.isfinite(value) for values in cases for value in values)

    def test_worse_is_never_better(self, objective: Objective, cases: list[list[float]]) -> None:
        """From better to worse, its sort key and its share never fall, and at least once they rise."""
        for values in cases:
            worst = max(*values, 1.0)
            for ranks in (map(objective.sort_key, values), (objective.share(value, worst) for value in values)):
                found = list(ranks)
                assert found == sorted(found)
        assert any(values[0] != values[-1] for values in cases)

    def test_its_share_is_from_0_to_1(self, objective: Objective, cases: list[list[float]]) -> None:
        """Its share lies between 0 (ideal) and 1 (worst), in any unit."""
        for values in cases:
            shares = [objective.share(value, max(*values, 1.0)) for value in values]
            assert [0, *shares, 1] == sorted([0, *shares, 1])

    def test_a_bound_excludes_what_is_worse(self, objective: Objective, cases: list[list[float]]) -> None:
        """A value satisfies a bound equal to itself or looser; a worse value has a positive excess."""
        for better, value, worse in cases:
            bound = Bound(objective, value)
            assert bound.excess(better) == bound.excess(value) == 0
            assert bound.excess(worse) > 0 or worse == value

    def test_what_it_shows_is_read_back(self, objective: Objective) -> None:
        """A formatted value is parsed to the same value, alone and in a bound."""
        quantity = objective.quantity
        for scale in _SMALL if quantity.highest else (*_SMALL, *_LARGE):
            value = round(0.987654 * scale) if quantity.whole else 0.987654 * scale
            shown = quantity.format(value)
            read = quantity.parse(shown)
            hundredth_percent = 1e-4 if quantity.highest else 0
            assert math.isclose(read, value, rel_tol=PRECISION, abs_tol=hundredth_percent), (shown, read)
            assert Bound.parse(f"{objective.name}{objective.comparison}{shown}") == Bound(objective, read)

    def test_it_has_words(self, objective: Objective) -> None:
        """Its label, heading, bound help and the text of a value are not empty."""
        assert all((objective.label, objective.heading, objective.bound_help, objective.quantity.examples))
        assert objective.text(0.5)

    def test_it_is_registered(self, objective: Objective) -> None:
        """Spaces, options and reports find the objective by its name."""
        assert OBJECTIVES[objective.name] is objective


def ranked_values(objective: Objective) -> Iterator[list[float]]:
    """Three values for each of several cases, the best first."""
    if objective.simulated is not None:
        for policy in ("none", "hand-made", "all-to-all"):
            yield [objective.simulated(_worse(_simulation(policy), times)) for times in (1, 2, 5)]
    if objective.evaluated is not None:
        yield [objective.evaluated(RankedAnswers(right)) for right in (0.9, 0.5, 0.1)]


@dataclass(frozen=True)
class RankedAnswers:
    """Synthetic answers with accuracy ``right``, reduced by a tenth for each lost device."""

    right: float
    losable: Collection[int] = (1, 2, 3)

    def accuracy(self, lost: Collection[int] = ()) -> float:
        return self.right * (1 - 0.1 * len(lost))


def _simulation(policy: str) -> Simulation:
    return simulate(build_plan(named_architecture("resnext20_4x4d", _NUM_DEVICES, policy)), _cluster())


def _cluster() -> Cluster:
    """Devices of different power, so that no two have the same cost."""
    cluster = uniform_cluster(_NUM_DEVICES)
    devices = tuple(
        device.model_copy(update={"power": Power(idle_w=1.0 + rank, compute_w=2.0, energy_per_byte_j=1e-7)})
        for rank, device in enumerate(cluster.devices)
    )
    return cluster.model_copy(update={"devices": devices})


def _worse(simulation: Simulation, times: int) -> Simulation:
    """The same request with all costs multiplied by ``times``."""
    return replace(
        simulation,
        latency_s=times * simulation.latency_s,
        makespan_s=times * simulation.makespan_s,
        payload_bytes=times * simulation.payload_bytes,
        wire_bytes=times * simulation.wire_bytes,
        client_links=tuple(replace(each, payload_bytes=times * each.payload_bytes) for each in simulation.client_links),
        compute_s=tuple(times * each for each in simulation.compute_s),
        busy_s=tuple(times * each for each in simulation.busy_s),
        peak_memory_bytes=tuple(times * each for each in simulation.peak_memory_bytes),
        energy_j=tuple(times * each for each in simulation.energy_j),
    )
