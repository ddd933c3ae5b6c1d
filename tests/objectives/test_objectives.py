"""The registry of objectives: each keeps the contract, and bounds are read as people type them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from sepnas.cost.simulator import simulate
from sepnas.errors import SearchError, SpecError
from sepnas.objectives import (
    LATENCY_S,
    OBJECTIVES,
    Bound,
    Bounds,
    Objective,
    costs_of,
    find_objective,
    shown_objectives,
)
from sepnas.objectives.quantity import SECONDS
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import uniform_cluster
from sepnas.testing.objectives import ObjectiveContract, ranked_values


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
class TestRegisteredObjectives(ObjectiveContract):
    """Each registered objective keeps the contract."""


FACTS = {name: getattr(LATENCY_S, name) for name in Objective.__dataclass_fields__}


@pytest.mark.parametrize(
    ("broken", "part"),
    [
        (
            {"simulated": lambda simulation: float("nan")},
            ObjectiveContract.test_its_values_are_finite_and_none_is_negative,
        ),
        ({"simulated": lambda simulation: 1 / simulation.latency_s}, ObjectiveContract.test_worse_is_never_better),
        ({"simulated": lambda simulation: 1.0}, ObjectiveContract.test_worse_is_never_better),
    ],
)
def test_the_contract_finds_values_that_break_it(broken: dict, part: Callable) -> None:
    """Values that are no numbers, get better as all gets worse, or are always the same are found."""
    objective = Objective(**FACTS | broken)
    with pytest.raises(AssertionError):
        part(ObjectiveContract(), objective, list(ranked_values(objective)))


def test_the_contract_finds_a_format_that_is_not_read_back() -> None:
    """Seconds without decimals lose the value."""
    coarse = Objective(**FACTS | {"quantity": replace(SECONDS, format=lambda value: f"{value:.0f} s")})
    with pytest.raises(AssertionError, match="1 s"):
        ObjectiveContract().test_what_it_shows_is_read_back(coarse)


def test_an_objective_is_computed_in_one_way_and_has_an_ideal() -> None:
    """Neither both computations nor none, and none that is maximised without a highest value."""
    for wrong in ({"simulated": None}, {"evaluated": lambda answers: 0.5}, {"direction": "maximize"}):
        with pytest.raises(ValueError, match="objective latency_s: "):
            Objective(**FACTS | wrong)


def test_costs_are_those_of_the_simulation() -> None:
    """Every simulated objective is in the costs: totals of the request, the fullest device, the sum of energies."""
    plan = build_plan(named_architecture("resnext20_4x4d", 4, "hand-made"))
    simulation = simulate(plan, uniform_cluster(4))
    costs = costs_of(simulation)
    assert set(costs) == {name for name, known in OBJECTIVES.items() if known.simulated}
    assert costs["latency_s"] == simulation.latency_s
    assert costs["payload_bytes"] == plan.payload_bytes() < costs["wire_bytes"] == simulation.wire_bytes
    assert costs["memory_bytes"] == max(simulation.peak_memory_bytes)
    assert costs["energy_j"] == 0


@pytest.mark.parametrize(
    ("text", "name", "limit"),
    [
        ("latency_s<=20ms", "latency_s", 0.02),
        (" payload_bytes <= 200 KB ", "payload_bytes", 200_000),
        ("energy_j<=20mJ", "energy_j", 0.02),
        ("memory_bytes<=64KiB", "memory_bytes", 65_536),
        ("makespan_s<=1.5s", "makespan_s", 1.5),
        ("wire_bytes<=1000", "wire_bytes", 1000),
        ("accuracy>=57%", "accuracy", 0.57),
        ("accuracy_one_lost>=0.5", "accuracy_one_lost", 0.5),
    ],
)
def test_bounds_are_read_as_people_type_them(text: str, name: str, limit: float) -> None:
    """The objective, the operator of its direction, and a value with its unit."""
    assert Bound.parse(text) == Bound(find_objective(name), limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed<=3", "unknown objective 'speed'; allowed: accuracy>=, accuracy_one_lost>=, latency_s<=, "),
        ("latency_s>=20ms", "of latency_s less is better, so give latency_s<=VALUE; allowed: accuracy>="),
        ("accuracy<=90%", "of accuracy more is better, so give accuracy>=VALUE; allowed: accuracy>="),
        ("latency_s<20ms", "so give latency_s<=VALUE"),
        ("latency_s<=20", "'20' cannot be read; give a number with its unit us, ms or s, such as 20ms"),
        ("energy_j<=5", "give a number with its unit uJ, mJ, J or kJ"),
        ("payload_bytes<=", "give 200KB, 1.5MB, 64MiB or 50000 (bytes)"),
        ("accuracy>=95", "more than everything; give a share such as 95% or 0.95"),
        ("latency_s", "give OBJECTIVE<=VALUE, such as latency_s<=20ms; allowed: accuracy>="),
        ("", "give OBJECTIVE<=VALUE"),
    ],
)
def test_unclear_bounds_are_refused_with_the_allowed_forms(text: str, said: str) -> None:
    """An unknown name, the wrong direction and a missing unit are told apart."""
    with pytest.raises(SpecError, match=re.escape(said)):
        Bound.parse(text)


def test_all_bounds_have_to_be_kept() -> None:
    """The excess is the sum over the bounds; a number that is missing is no zero."""
    bounds = Bounds.of(max_latency_s=0.1, min_accuracy=0.8, max_energy_j=None)
    assert str(bounds) == "latency_s <= 0.1 and accuracy >= 0.8"
    assert bounds.excess({"latency_s": 0.1, "accuracy": 0.8}) == 0
    assert bounds.excess({"latency_s": 0.2, "accuracy": 0.4}) == pytest.approx(1 + 0.5)
    assert not Bounds.of(max_energy_j=None)
    with pytest.raises(SearchError, match=r"no energy_j, because this search did not keep it"):
        Bounds.of(max_energy_j=1).excess({"latency_s": 0.1})
    with pytest.raises(SpecError, match=r"unknown bound 'max_speed'; allowed: min_accuracy, .*max_latency_s"):
        Bounds.of(max_speed=1)
    for wrong in (math.nan, math.inf, True, "20ms"):
        with pytest.raises(SpecError, match="`max_latency_s` must be a finite number, got"):
            Bounds.of(max_latency_s=wrong)


def test_columns_are_known_objectives_shown_or_requested() -> None:
    """Energy has no column where the cluster gives no power, and the makespan only where it is asked for."""
    numbers = {"accuracy": 0.9, "latency_s": 0.1, "makespan_s": 0.1, "energy_j": 0.0}
    assert [shown.name for shown in shown_objectives([numbers])] == ["accuracy", "latency_s"]
    asked = shown_objectives([numbers, {**numbers, "energy_j": 1.0}], {"makespan_s", "accuracy_one_lost"})
    assert [shown.name for shown in asked] == ["accuracy", "latency_s", "makespan_s", "energy_j"]
