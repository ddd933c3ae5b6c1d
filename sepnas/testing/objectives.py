"""The contract of an objective."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from sepnas.cost.simulator import Simulation, simulate
from sepnas.objectives import Bound, Objective
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Power, uniform_cluster

PRECISION = 5e-3
"""Three digits are shown: a value may change by so much, relative to itself, when it is formatted and parsed."""
_NUM_DEVICES = 4
_POWERS = (0, -1, -3, -5, -7)
"""Of ten: the sizes of the values that are formatted and parsed."""


def check_objective(objective: Objective) -> None:
    """Hold an objective against its contract; ``AssertionError`` names the part that it breaks.

    Its value is finite on real simulations and on answers, it gets worse when everything gets worse, shares and
    bounds follow its direction, and what its quantity formats is parsed to the same value.
    """
    ranked = list(_ranked_values(objective))
    for values in ranked:
        _check_values(objective, values)
    assert any(values[0] != values[-1] for values in ranked), f"{objective.name}: does not tell worse cases apart"
    highest = objective.quantity.highest
    for scale in _POWERS if highest is not None else (*_POWERS, 2, 4, 8):
        _check_text(objective, 0.987654 * 10.0**scale * (highest or 1.0))
    words = objective.label, objective.heading, objective.bound_help, objective.quantity.examples
    assert all(words), f"{objective.name}: has no {words}"


def _ranked_values(objective: Objective) -> Iterator[list[float]]:
    """Values of cases that get worse from one to the next."""
    if objective.simulated is not None:
        for policy in ("none", "hand-made", "all-to-all"):
            yield [objective.simulated(_worse(_simulation(policy), times)) for times in (1, 2, 5)]
    if objective.judged is not None:
        yield [objective.judged(RankedAnswers(right)) for right in (0.9, 0.5, 0.1)]


def _check_values(objective: Objective, values: list[float]) -> None:
    name, highest = objective.name, objective.quantity.highest
    assert all(math.isfinite(value) and value >= 0 for value in values), f"{name}: not finite, or negative: {values}"
    assert highest is None or max(values) <= highest, f"{name}: more than {highest}: {values}"
    keys = [objective.sort_key(value) for value in values]
    assert keys == sorted(keys), f"{name}: worse cases do not rise in `sort_key`: {values}"
    worst = max(*values, 1.0)
    shares = [objective.share(value, worst) for value in values]
    assert [0, *shares, 1] == sorted([0, *shares, 1]), f"{name}: shares are {shares}"
    if values[0] == values[-1]:  # such as the payload of a policy without transfers
        return
    excesses = [Bound(objective, values[1]).excess(value) for value in values]
    assert [each > 0 for each in excesses] == [False, False, True], f"{name}: beyond {values[1]:g} by {excesses}"


def _check_text(objective: Objective, value: float) -> None:
    quantity, name = objective.quantity, objective.name
    value = round(value) if quantity.whole else value
    read = quantity.parse(quantity.format(value))
    hundredth_percent = 1e-4 if quantity.highest else 0
    assert math.isclose(read, value, rel_tol=PRECISION, abs_tol=hundredth_percent), (
        f"{name}: {value!r} is shown as {quantity.format(value)!r}, which is read as {read!r}"
    )
    bound = Bound.parse(f"{name}{objective.comparison}{quantity.format(value)}")
    assert bound == Bound(objective, read), f"{name}: {bound} is another bound than that of {read!r}"
    assert objective.text(value), f"{name}: an empty cell for {value!r}"


@dataclass(frozen=True)
class RankedAnswers:
    """Made-up answers: ``right`` of them with all devices, a tenth less for each device that is lost."""

    right: float
    losable: Collection[int] = (1, 2, 3)

    def accuracy(self, lost: Collection[int] = ()) -> float:
        return self.right * (1 - 0.1 * len(lost))


def _simulation(policy: str) -> Simulation:
    return simulate(build_plan(named_architecture("resnext20_4x4d", _NUM_DEVICES, policy)), _cluster())


def _cluster() -> Cluster:
    """Devices that differ in power, so that no two cost the same."""
    cluster = uniform_cluster(_NUM_DEVICES)
    devices = tuple(
        device.model_copy(update={"power": Power(idle_w=1.0 + rank, compute_w=2.0, energy_per_byte_j=1e-7)})
        for rank, device in enumerate(cluster.devices)
    )
    return cluster.model_copy(update={"devices": devices})


def _worse(simulation: Simulation, times: int) -> Simulation:
    """The same request with everything multiplied."""
    return replace(
        simulation,
        latency_s=times * simulation.latency_s,
        makespan_s=times * simulation.makespan_s,
        payload_bytes=times * simulation.payload_bytes,
        wire_bytes=times * simulation.wire_bytes,
        compute_s=tuple(times * each for each in simulation.compute_s),
        busy_s=tuple(times * each for each in simulation.busy_s),
        peak_memory_bytes=tuple(times * each for each in simulation.peak_memory_bytes),
        energy_j=tuple(times * each for each in simulation.energy_j),
    )
