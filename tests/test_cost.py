"""The simulator: closed forms where they exist, and monotony everywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.calibrate import fit_rate
from sepnas.cost.memory import peak_memory_bytes
from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SpecError
from sepnas.plan.build import build_plan
from sepnas.plan.network import count_macs
from sepnas.spec.architecture import named_architecture
from sepnas.spec.cluster import Cluster, Link, Power, uniform_cluster
from sepnas.spec.timing import SegmentTime
from sepnas.spec.wire import FRAME_HEADER_BYTES
from tests.strategies import architectures, clusters

QUICK = settings(max_examples=40, deadline=None)


def test_one_device_takes_flops_over_rate() -> None:
    """One device alone takes its arithmetic divided by its rate."""
    architecture = named_architecture("resnext56_4x16d")
    result = simulate(build_plan(architecture), uniform_cluster(1, flops_per_s=1e9))
    assert result.latency_s == pytest.approx(2 * count_macs(architecture, 0) / 1e9)
    assert result.payload_bytes == 0


def test_star_readout_takes_turns_at_the_receivers_port() -> None:
    """Logits of three devices reach the fourth one after another: three times the wire time, one latency."""
    architecture = named_architecture("resnext11_4x4d", 4, "none")
    cluster = uniform_cluster(4, bandwidth_bytes_per_s=1e5, latency_s=0.01)
    result = simulate(build_plan(architecture), cluster)
    slowest_s = max(result.compute_s[1:])
    wire_s = (4 * 100 + FRAME_HEADER_BYTES) / 1e5
    assert result.latency_s == pytest.approx(slowest_s + 3 * wire_s + 0.01)


def test_shared_medium_carries_one_message_at_a_time() -> None:
    """On the air all messages take turns; on cables of their own none waits."""
    plan = build_plan(named_architecture("resnext11_4x4d", 4, "all-to-all"))

    def latency_s(medium: str) -> float:
        link = Link(bandwidth_bytes_per_s=1e6, medium=medium)
        return simulate(plan, uniform_cluster(4, flops_per_s=1e15).model_copy(update={"links": (link,)})).latency_s

    assert latency_s("shared") == pytest.approx(plan.wire_bytes() / 1e6, rel=1e-3)
    assert latency_s("own") < latency_s("switch") < latency_s("shared")


def test_lag_hides_the_transfer_behind_computation() -> None:
    """With lag 1 a transfer no longer than the next block costs nothing; with lag 0 it costs its time."""
    hand_made = named_architecture("resnext56_4x16d", 4, "hand-made")
    data = hand_made.to_data()
    for point in data["policy"]["points"]:
        for transfer in point["transfers"]:
            transfer["lag"] = 0
    waiting = type(hand_made).from_data(data)
    cluster = uniform_cluster(4, flops_per_s=1e9, bandwidth_bytes_per_s=1e9, latency_s=1e-5)
    lag_1, lag_0 = (simulate(build_plan(a), cluster) for a in (hand_made, waiting))
    assert lag_1.latency_s == pytest.approx(max(lag_1.compute_s))
    assert lag_0.latency_s > lag_1.latency_s + 9e-5


@QUICK
@given(data=st.data(), architecture=architectures(), factor=st.floats(1, 100))
def test_more_bandwidth_is_never_slower(data: st.DataObject, architecture, factor: float) -> None:
    """More bandwidth, less latency or faster devices never make the makespan longer."""
    cluster: Cluster = data.draw(clusters(architecture.num_devices))
    plan = build_plan(architecture)
    before = simulate(plan, cluster)
    link = cluster.links[0]
    wider = link.model_copy(update={"bandwidth_bytes_per_s": link.bandwidth_bytes_per_s * factor})
    nearer = link.model_copy(update={"latency_s": link.latency_s / factor})
    quick = tuple(d.model_copy(update={"flops_per_s": d.flops_per_s * factor}) for d in cluster.devices)
    for change in ({"links": (wider,)}, {"links": (nearer,)}, {"devices": quick}):
        after = simulate(plan, cluster.model_copy(update=change))
        assert after.makespan_s <= before.makespan_s * (1 + 1e-12)
        assert after.latency_s <= before.latency_s * (1 + 1e-12)


@QUICK
@given(data=st.data(), architecture=architectures(), batch=st.integers(1, 5))
def test_bytes_are_the_plans(data: st.DataObject, architecture, batch: int) -> None:
    """The simulator's bytes, link by link, and its memory are those of the plan."""
    plan = build_plan(architecture)
    result = simulate(plan, data.draw(clusters(architecture.num_devices)), batch)
    assert result.payload_bytes == plan.payload_bytes(batch) == sum(link.payload_bytes for link in result.links)
    assert result.wire_bytes == plan.wire_bytes(batch)
    assert result.peak_memory_bytes == tuple(peak_memory_bytes(plan, rank, batch) for rank in range(plan.num_devices))


@QUICK
@given(data=st.data(), architecture=architectures())
def test_timeline_adds_up(data: st.DataObject, architecture) -> None:
    """A device does one thing at a time, and its computing spans add up to its computing time."""
    result = simulate(build_plan(architecture), data.draw(clusters(architecture.num_devices)), timeline=True)
    for rank in range(architecture.num_devices):
        busy = [s for s in result.timeline if s.rank == rank and s.kind != "transfer"]
        assert sum(s.end_s - s.start_s for s in busy if s.kind == "compute") == pytest.approx(result.compute_s[rank])
        for first, second in pairwise(busy):
            assert first.end_s <= second.start_s + 1e-12


def test_energy_has_three_terms() -> None:
    """Energy is idle power over the makespan, computing power while it computes, and a price for each byte."""
    plan = build_plan(named_architecture("resnext11_4x4d", 2, "hand-made"))
    power = Power(idle_w=2.0, compute_w=3.0, energy_per_byte_j=1e-6)
    cluster = uniform_cluster(2)
    devices = tuple(d.model_copy(update={"power": power}) for d in cluster.devices)
    result = simulate(plan, cluster.model_copy(update={"devices": devices}))
    for rank in range(2):
        wire_bytes = sum(link.wire_bytes for link in result.links if rank in (link.source, link.destination))
        expected_j = 2 * result.makespan_s + 3 * result.compute_s[rank] + 1e-6 * wire_bytes
        assert result.energy_j[rank] == pytest.approx(expected_j)


def test_too_small_a_cluster() -> None:
    """A cluster with fewer devices than the plan is refused with both numbers."""
    with pytest.raises(PlanError, match="needs 4 devices, but cluster 'uniform' has 2"):
        simulate(build_plan(named_architecture("resnext11_4x4d", 4)), uniform_cluster(2))


def test_rate_is_found_again() -> None:
    """A device that follows the model exactly gives its own numbers back."""
    times = [SegmentTime(f, k, f / 3e9 + 2e-5 * k) for f, k in [(10**6, 3), (10**8, 6), (10**7, 9)]]
    assert fit_rate(times) == pytest.approx((3e9, 2e-5))


def test_rate_needs_two_times() -> None:
    """One measured time does not tell a rate from a constant."""
    with pytest.raises(SpecError, match="at least two measured times"):
        fit_rate([SegmentTime(1, 1, 1.0)])
