"""The search for an assignment: never worse than what it compares, exact prices, and errors that say by how much."""

from __future__ import annotations

import random
from itertools import product
from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepnas import api
from sepnas.assign.assignment import assignment_of
from sepnas.assign.goal import Goal, find_plan_objective
from sepnas.assign.mixing import Mixer
from sepnas.assign.proposal import NO_SPLIT
from sepnas.assign.search import AssignmentSearch
from sepnas.assign.subsets import classes_of, subsets_of
from sepnas.errors import PlanError, SearchError, SpecError
from sepnas.objectives import LATENCY_S, PLAN_OBJECTIVES, THROUGHPUT_PER_S, Bound
from sepnas.partition.schemes.registry import SCHEMES, on_one_device, partition
from sepnas.plan.wire import UNCONVERTED
from sepnas.spec.cluster import Cluster, Link, Power, uniform_cluster
from tests.partition.chains import Builder, chains, equal_chain
from tests.partition.test_schemes import residual_network

SLOW = 2e8
"""Operations a second of a device for which splits of a small network pay."""


def cluster_of(*speeds: float, bandwidth_bytes_per_s: float = 12.5e6) -> Cluster:
    """Devices with such speeds on links of little latency, with power figures."""
    made = uniform_cluster(len(speeds), bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=1e-4)
    power = Power(idle_w=1.0, compute_w=2.0, energy_per_byte_j=1e-8)
    devices = [
        device.model_copy(update={"flops_per_s": speed, "power": power})
        for device, speed in zip(made.devices, speeds, strict=True)
    ]
    return made.model_copy(update={"devices": tuple(devices)})


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(chains(), st.lists(st.sampled_from((SLOW, 2 * SLOW)), min_size=2, max_size=3))
def test_no_scheme_over_all_devices_is_better(made: Builder, speeds: list[float]) -> None:
    """The chosen plan is at least as fast as no split and as each scheme with shares by speed."""
    graph, cluster = made.graph(), cluster_of(*speeds)
    found = api.assign(graph, cluster)
    plans = [on_one_device(graph, rank, len(speeds)) for rank in range(len(speeds))]
    for name in SCHEMES:
        try:
            plans.append(partition(graph, name, speeds))
        except PlanError:
            continue
    fastest_s = min(api.simulate(plan, cluster).latency_s for plan in plans)
    assert found.chosen.costs["latency_s"] <= fastest_s * (1 + 1e-9)
    assert found.chosen.costs["latency_s"] == api.simulate(found.chosen.plan, cluster).latency_s


@pytest.mark.parametrize("objective", ["latency", "throughput", "energy", "total_bytes", "peak_memory"])
def test_alternatives_are_in_the_order_of_the_objective(objective: str) -> None:
    """No split is among them; all have all costs; the first is chosen; the same search gives the same result."""
    graph, cluster = random_chain(1).graph(), cluster_of(SLOW, 2 * SLOW)
    found = api.assign(graph, cluster, objective=objective)
    known = find_plan_objective(objective)
    keys = [known.sort_key(each.costs[known.name]) for each in found.alternatives]
    assert keys == sorted(keys)
    assert found.chosen is found.alternatives[0]
    assert found.alone is not None
    assert found.alone in found.alternatives
    assert found.alone.devices == (1,)
    assert all(set(each.costs) == set(PLAN_OBJECTIVES) for each in found.alternatives)
    assert {each.scheme for each in found.alternatives} >= {NO_SPLIT, "rows", "output-channels"}
    assert api.assign(graph, cluster, objective=objective).to_data() == found.to_data()


def test_a_split_wins_where_it_pays_and_only_there() -> None:
    """Slow devices on fast links share the work, the faster one has more; on slow links one device has all of it."""
    graph = equal_chain(2, 16, 12).graph()
    near = api.assign(graph, cluster_of(SLOW, SLOW, 2 * SLOW, bandwidth_bytes_per_s=1e9))
    assert near.alone is not None
    assert len(near.chosen.devices) == 3
    assert near.chosen.costs["latency_s"] < 0.7 * near.alone.costs["latency_s"]
    macs = [sum(each.flops for each in segments.values()) for segments in near.chosen.plan.segments]
    assert macs[2] > 1.2 * max(macs[:2])
    far = api.assign(graph, cluster_of(SLOW, SLOW, 2 * SLOW, bandwidth_bytes_per_s=1e4))
    assert far.chosen is far.alone
    assert far.chosen.devices == (2,)


def random_chain(seed: int) -> Builder:
    """Two convolutions, perhaps a residual or a pooling, and a classifier."""
    draw = random.Random(seed)
    made = Builder(draw.randint(1, 3), draw.randint(8, 16), 8)
    made.conv(draw.randint(4, 12), 3, padding=(1, 1))
    if draw.random() < 0.5:
        before = made.last
        made.conv(made.dims()[1], 1)
        made.add("add", {"self": made.last, "other": before})
    else:
        made.conv(draw.randint(4, 12), 3)
    made.head(4)
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", ["latency", "throughput", "peak_memory"])
def test_small_mixtures_are_optimal(objective: str, seed: int) -> None:
    """Dynamic programming and changes find the best of all mixtures, operator by operator, by exact prices."""
    graph, cluster, goal = random_chain(seed).graph(), cluster_of(SLOW, 2 * SLOW), Goal(find_plan_objective(objective))
    search = AssignmentSearch(graph, cluster, goal, UNCONVERTED)
    splits = sorted(search.splits(), key=lambda each: goal.of_estimate(each.estimate))
    candidates = search.to_mix(search.singles(), splits)[:4]
    best = min(search.improved(Mixer(search.estimator, candidates)), key=goal.of)
    every = Mixer(search.estimator, candidates, [[place] for place in range(len(graph.nodes))])
    found = (search.mixture(every, each) for each in product(*(range(len(each)) for each in every.choices)))
    optimum = min((each for each in found if each is not None), key=goal.of)
    assert best.costs[goal.objective.name] == pytest.approx(optimum.costs[goal.objective.name], rel=1e-9)


def test_estimates_are_near_the_simulator() -> None:
    """For each scheme the estimated latency is near the simulated one, mostly equal; so is memory; bytes are equal."""
    graph, cluster = residual_network().graph(), cluster_of(SLOW, SLOW, 2 * SLOW)
    search = AssignmentSearch(graph, cluster, Goal(LATENCY_S), UNCONVERTED)
    ratios, memory = [], []
    for each in [*search.singles(), *search.splits()]:
        exact = search.price(each.scheme, {}, each.layouts)
        assert exact is not None
        assert each.estimate.payload_bytes == exact.costs["payload_bytes"]
        ratios.append(each.estimate.latency_s / exact.costs["latency_s"])
        memory.append(max(each.estimate.peak_memory_bytes) / exact.costs["memory_bytes"])
    assert 0.9 < min(ratios) <= median(ratios) < 1.001
    assert max(ratios) < 1.3
    assert 0.95 < min(memory) <= median(memory) < 1.01
    assert max(memory) < 1.3


def test_equal_devices_are_interchangeable() -> None:
    """Subsets count devices of a class, the fastest first; devices with links of their own are no class."""
    cluster = cluster_of(SLOW, 2 * SLOW, SLOW)
    classes = classes_of(cluster, [2.0, 1.0, 2.0])
    assert classes == [[1], [0, 2]]
    assert subsets_of(classes) == [(0, 2), (1, 0), (1, 0, 2)]
    link = Link(between=("device0", "device1"), bandwidth_bytes_per_s=1e6)
    other = cluster.model_copy(update={"links": (*cluster.links, link)})
    assert len(classes_of(other, [2.0, 1.0, 2.0])) == 3
    assert subsets_of([[rank] for rank in range(8)])[-1] == tuple(range(8))


def test_bounds_are_kept_or_refused() -> None:
    """A bound changes the choice; one that nothing keeps is an error with the nearest value."""
    graph, cluster = equal_chain(3, 16, 12).graph(), cluster_of(SLOW, SLOW)
    free = api.assign(graph, cluster)
    memory = free.alone.costs["memory_bytes"] if free.alone else 0.0
    few = api.assign(graph, cluster, objective="payload_bytes", bounds=[f"memory_bytes<={int(memory) - 1}"])
    assert few.chosen.costs["memory_bytes"] < memory
    assert few.chosen.scheme != NO_SPLIT
    with pytest.raises(SearchError, match=r"no assignment keeps latency_s <= 1 µs: the nearest .* times the bound"):
        api.assign(graph, cluster, bounds=["latency_s<=1us"])
    rates = api.assign(graph, cluster, bounds=[f"throughput_per_s>={free.chosen.costs['throughput_per_s'] / 2}"])
    assert rates.chosen.costs["throughput_per_s"] >= free.chosen.costs["throughput_per_s"] / 2


def test_memory_that_no_assignment_fits_is_refused() -> None:
    """Devices that cannot hold the network alone share it; smaller ones are refused with the bytes they lack."""
    graph = equal_chain(3, 32, 8).graph()
    weights = sum(4 * 32 * 32 * 9 for _ in range(3))

    def with_memory(nbytes: int) -> Cluster:
        made = cluster_of(SLOW, SLOW, SLOW)
        return made.model_copy(
            update={"devices": tuple(each.model_copy(update={"memory_bytes": nbytes}) for each in made.devices)}
        )

    shared = api.assign(graph, with_memory(int(0.7 * weights)))
    assert shared.alone is None
    assert len(shared.chosen.devices) > 1
    assert max(shared.chosen.simulation.peak_memory_bytes) <= 0.7 * weights
    with pytest.raises(SearchError, match=r"the nearest assignment \(.*\) needs .* bytes short; take more devices"):
        api.assign(graph, with_memory(weights // 10))


def test_without_links_one_device_has_all() -> None:
    """A cluster without a path between its devices has one kind of assignment."""
    cluster = cluster_of(SLOW, 2 * SLOW).model_copy(update={"links": ()})
    found = api.assign(residual_network().graph(), cluster)
    assert {each.scheme for each in found.alternatives} == {NO_SPLIT}
    assert found.chosen.devices == (1,)


def test_more_devices_than_rows_or_channels_are_left_out() -> None:
    """A network of 2 rows and 2 channels over 5 devices is assigned to fewer of them."""
    found = api.assign(equal_chain(2, 2, 2, 1).graph(), cluster_of(*[1e3] * 5, bandwidth_bytes_per_s=1e9))
    assert len(found.chosen.devices) < 5


def test_wrong_values_are_refused() -> None:
    """Unknown objectives, formats and bounds, and energy without power figures, are errors with what is allowed."""
    graph, cluster = equal_chain(1, 2, 4).graph(), cluster_of(SLOW, SLOW)
    with pytest.raises(SpecError, match="unknown objective 'speed'; allowed: latency, throughput, energy, total_bytes"):
        api.assign(graph, cluster, objective="speed")
    with pytest.raises(SpecError, match="unknown objective 'accuracy'"):
        api.assign(graph, cluster, bounds=["accuracy>=0.9"])
    with pytest.raises(SpecError, match="wire format 'int9' is none of"):
        api.assign(graph, cluster, wire="int9")
    with pytest.raises(SpecError, match="energy_j is not known, because device 'device0' has no `power`"):
        api.assign(graph, uniform_cluster(2), objective="energy")


def test_given_plans_are_compared() -> None:
    """A plan of the network may be chosen; a plan of another network is a row only."""
    graph, cluster = random_chain(1).graph(), cluster_of(SLOW, SLOW)
    best = assignment_of(graph, cluster).chosen
    other = on_one_device(equal_chain(1, 2, 4).graph(), 0, 2)
    found = assignment_of(graph, cluster, plans={"own.json": best.plan, "other.json": other})
    assert {"own.json", "other.json"} <= {each.scheme for each in found.alternatives}
    assert found.alternatives[0].scheme == "other.json"
    assert found.chosen.costs == best.costs
    assert found.chosen.scheme != "other.json"


def test_throughput_is_an_objective_of_plans() -> None:
    """Its values are read as they are shown, and more is better."""
    for value in (0.0321, 7.5, 1234.0):
        shown = THROUGHPUT_PER_S.text(value)
        read = Bound.parse(f"throughput_per_s>={shown}", PLAN_OBJECTIVES)
        assert read.limit == pytest.approx(value, rel=0.01)
        assert read.excess(2 * value) == 0 < read.excess(value / 2)
    with pytest.raises(SpecError, match="of throughput_per_s more is better"):
        Bound.parse("throughput_per_s<=3", PLAN_OBJECTIVES)


def test_a_label_has_the_costs_of_one_device() -> None:
    """The estimate of no split is exact: nothing is sent."""
    graph, cluster = residual_network().graph(), cluster_of(SLOW)
    search = AssignmentSearch(graph, cluster, Goal(LATENCY_S), UNCONVERTED)
    [single] = search.singles()
    assert single.estimate.latency_s == pytest.approx(api.simulate(on_one_device(graph, 0, 1), cluster).latency_s)
    assert single.estimate.payload_bytes == 0
