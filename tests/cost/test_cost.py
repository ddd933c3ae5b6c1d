"""The simulator: closed forms where they exist, and monotony everywhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.calibrate import fit_rate
from sepnas.cost.memory import peak_memory_bytes, tensors_bytes
from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SpecError
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs
from sepnas.separable.lower import lower
from sepnas.spec.cluster import Cluster, Link, Power, uniform_cluster
from sepnas.spec.device_profile import ExchangeCosts
from sepnas.spec.timing import SegmentTime
from tests.strategies import architectures, clusters

QUICK = settings(max_examples=40, deadline=None)
OLD_FILE = """
name: three kinds
devices:
  - {name: a, flops_per_s: 5e9, memory_bytes: 1073741824, layer_overhead_s: 2e-5,
     power: {idle_w: 2.0, compute_w: 3.5, energy_per_byte_j: 1e-8}}
  - {name: b, flops_per_s: 1e10, memory_bytes: 1073741824}
  - {name: c, flops_per_s: 2.5e9, memory_bytes: 536870912, layer_overhead_s: 1e-5}
  - {name: d, flops_per_s: 5e9, memory_bytes: 1073741824}
links:
  - {between: all, bandwidth_bytes_per_s: 12500000.0, latency_s: 5e-4, message_overhead_s: 1e-4}
  - {between: [a, b], bandwidth_bytes_per_s: 1e6, latency_s: 2e-3, medium: shared}
  - {between: [c, d], bandwidth_bytes_per_s: 4e6, medium: own, duplex: half}
client_link: {bandwidth_bytes_per_s: 2e6, latency_s: 1e-3, duplex: half}
"""


def with_devices(cluster: Cluster, **values: object) -> Cluster:
    """The same cluster with other values in every device."""
    devices = tuple(device.model_copy(update=values) for device in cluster.devices)
    return cluster.model_copy(update={"devices": devices})


def load(tmp_path: Path, text: str) -> Cluster:
    (tmp_path / "cluster.yaml").write_text(text)
    return Cluster.load(tmp_path / "cluster.yaml")


@pytest.mark.parametrize(
    ("name", "policy", "batch", "latency_s", "wire_bytes", "compute_s", "energy_j"),
    [
        ("resnext56_4x16d", "hand-made", 1, 0.9498099712, 5_177_840, 0.1417273952, 2.0496835872),
        ("resnext20_4x4d", "all-to-all", 2, 3.5625257984, 20_841_456, 0.0368566912, 7.2582123744),
        ("resnext29_8x16d", "none", 1, 0.0786319616, 1_248, 0.1603470336, 0.281068096),
    ],
)
def test_a_file_with_rates_alone_is_priced_by_them(
    tmp_path: Path,
    name: str,
    policy: str,
    batch: int,
    latency_s: float,
    wire_bytes: int,
    compute_s: float,
    energy_j: float,
) -> None:
    """A cluster file without profiles, exchange costs and jitter is read, and priced by its rates alone."""
    result = simulate(build_plan(named_architecture(name, 4, policy)), load(tmp_path, OLD_FILE), batch)
    assert result.latency_s == pytest.approx(latency_s, rel=1e-9)
    assert result.makespan_s == pytest.approx(latency_s - 1e-3 - (400 * batch + FRAME_HEADER_BYTES) / 2e6, rel=1e-9)
    assert result.wire_bytes == wire_bytes
    assert sum(result.compute_s) == sum(result.busy_s) == pytest.approx(compute_s, rel=1e-9)
    assert result.energy_j[0] == pytest.approx(energy_j, rel=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("latency_s: 2e-3", "latency_ms: 2", r"`links\.1\.latency_ms`: unknown key; allowed: .*latency_s"),
        ("bandwidth_bytes_per_s: 1e6", "bandwidth_bytes_per_s: 8 Mbit", r"`links\.1\.bandwidth_bytes_per_s`: .*number"),
        ("bandwidth_bytes_per_s: 1e6", "bandwidth_bytes_per_s: 0", r"`links\.1\.bandwidth_bytes_per_s`: .*than 0"),
        ("latency_s: 2e-3", "latency_s: -1e-3", r"`links\.1\.latency_s`: must be at least 0"),
        ("latency_s: 2e-3", "jitter_s: .inf", r"`links\.1\.jitter_s`: must be a finite number"),
        ("flops_per_s: 1e10", "flops_per_s: .nan", r"`devices\.1\.flops_per_s`: "),
        ("flops_per_s: 1e10", "jitter: -1, flops_per_s: 1e10", r"`devices\.1\.jitter`: must be at least 0"),
        ("flops_per_s: 1e10", "exchange: {byte_ns: 1}, flops_per_s: 1e10", r"`devices\.1\.exchange\.byte_ns`: unknown"),
        (
            "flops_per_s: 1e10",
            "exchange: {convert_s_per_value: {int8: -1}}, flops_per_s: 1e10",
            r"`devices\.1\.exchange\.convert_s_per_value\.int8`: must be at least 0",
        ),
    ],
)
def test_wrong_figures_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """An unknown unit, no bandwidth, a negative or an infinite figure is refused with file and field."""
    assert old in OLD_FILE
    with pytest.raises(SpecError, match=r"cluster\.yaml: field " + message):
        load(tmp_path, OLD_FILE.replace(old, new))


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
    """More bandwidth or less latency never makes the makespan longer; nor do faster devices where no wire is shared.

    On a shared wire the turns depend on the devices: one that comes first may hold up another that others wait for.
    """
    cluster: Cluster = data.draw(clusters(architecture.num_devices))
    plan = build_plan(architecture)
    before = simulate(plan, cluster)
    link = cluster.links[0]
    wider = link.model_copy(update={"bandwidth_bytes_per_s": link.bandwidth_bytes_per_s * factor})
    nearer = link.model_copy(update={"latency_s": link.latency_s / factor})
    quick = tuple(d.model_copy(update={"flops_per_s": d.flops_per_s * factor}) for d in cluster.devices)
    free = tuple(d.model_copy(update={"exchange": None}) for d in cluster.devices)
    changes = [{"links": (wider,)}, {"links": (nearer,)}]
    if link.medium == "own" and link.duplex == "full":
        changes += [{"devices": quick}, {"devices": free}]
    for change in changes:
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
@given(architecture=architectures())
def test_lowering_knows_the_memory(architecture) -> None:
    """What lowering says of a plan's tensors is what walking the plan finds, dead steps or none."""
    for plan in (lower(architecture), build_plan(architecture)):
        assert plan.tensors_bytes == tuple(tensors_bytes(plan, rank) for rank in range(plan.num_devices))


@QUICK
@given(data=st.data(), architecture=architectures())
def test_timeline_adds_up(data: st.DataObject, architecture) -> None:
    """A device does one thing at a time, and its spans add up to its computing time and to its busy time."""
    result = simulate(build_plan(architecture), data.draw(clusters(architecture.num_devices)), timeline=True)
    for rank in range(architecture.num_devices):
        lane = [s for s in result.timeline if s.rank == rank and s.kind != "transfer"]
        computing_s = sum(s.end_s - s.start_s for s in lane if s.kind == "compute")
        busy_s = sum(s.end_s - s.start_s for s in lane if s.kind != "wait")
        assert computing_s == pytest.approx(result.compute_s[rank])
        assert busy_s == pytest.approx(result.busy_s[rank])
        for first, second in pairwise(lane):
            assert first.end_s <= second.start_s + 1e-12


@pytest.mark.parametrize("exchange", [None, ExchangeCosts(merge_s=1e-3, message_s=1e-3, own_core=False)])
def test_energy_has_three_terms(exchange: ExchangeCosts | None) -> None:
    """Energy is idle power over the makespan, computing power while busy, conversions and merges among it, and a
    price for each byte."""
    plan = build_plan(named_architecture("resnext11_4x4d", 2, "all-to-all"))
    power = Power(idle_w=2.0, compute_w=3.0, energy_per_byte_j=1e-6)
    result = simulate(plan, with_devices(uniform_cluster(2), power=power, exchange=exchange))
    for rank in range(2):
        wire_bytes = sum(link.wire_bytes for link in result.links if rank in (link.source, link.destination))
        expected_j = 2 * result.makespan_s + 3 * result.busy_s[rank] + 1e-6 * wire_bytes
        assert result.energy_j[rank] == pytest.approx(expected_j)
        assert (result.busy_s[rank] > result.compute_s[rank]) == (exchange is not None)


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
