"""The cost of messages to the devices' processors, in closed form; critical paths, percentiles, streams."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.arbitration import take_turns
from sepnas.cost.critical_path import critical_path_s
from sepnas.cost.jitter import latency_percentile
from sepnas.cost.playback import Passage
from sepnas.cost.routes import Network
from sepnas.cost.simulator import simulate
from sepnas.cost.stream import simulate_stream
from sepnas.cost.timeline import predicted_timeline
from sepnas.cost.work import Work
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan, Port, Segment
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send
from sepnas.plan.wire import FRAME_HEADER_BYTES, PIECE_BYTES, WireFormat, payload_bytes
from sepnas.report.from_run import shown_timeline
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.patterns import point
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.spec.cluster import Cluster, Link, uniform_cluster
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from tests.cost.test_cost import with_devices
from tests.strategies import architectures, clusters

QUICK = settings(max_examples=40, deadline=None)
VALUES, FLOPS = 40_000, 10**7
COSTS = ExchangeCosts(
    message_s=1e-4,
    byte_s=1e-9,
    convert_s=2e-5,
    convert_s_per_value=ConversionCosts(fp16=1e-9, int8=3e-9, int4=5e-9),
    merge_s=1e-5,
    merge_s_per_value=2e-9,
)


def two_stages(wire: WireFormat = "fp32") -> Plan:
    """Device 0 computes and sends; device 1 computes, receives, merges and answers."""
    image, wide = Shape.vector(1), Shape.vector(VALUES)
    programs = (
        (Recv(0, CLIENT, "x"), Compute("s", ("x",), ("y",)), Send("y", Region.whole(wide), wire, 1, 2)),
        (
            Recv(1, CLIENT, "x"),
            Compute("s", ("x",), ("y",)),
            Recv(2, 0, "r"),
            Merge("mean", ("y", "r"), "m"),
            Send("m", Region.whole(wide), "fp32", CLIENT, 3),
        ),
    )
    segments = tuple({"s": Segment("s", rank, ("s",), FLOPS, 1, 0, 4 * (VALUES + 1))} for rank in range(2))
    shapes = ({"x": image, "y": wide}, {"x": image, "y": wide, "r": wide, "m": wide})
    inputs, outputs = (Port.whole("x", image, (0, 0), (1, 1)),), (Port.whole("y", wide, (1, 3)),)
    return Plan(programs, segments, shapes, inputs, outputs)


def pair(exchange: ExchangeCosts | None, bandwidth_bytes_per_s: float = 1e7) -> Cluster:
    """Two devices of 1 GFLOP/s, 1 ms apart."""
    return with_devices(
        uniform_cluster(2, 1e9, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=1e-3), exchange=exchange
    )


@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8", "int4"])
def test_a_message_step_by_step(wire: WireFormat) -> None:
    """Computing, encoding, writing the first piece, the wire, the latency, reading the last piece, decoding and
    merging follow each other."""
    nbytes = payload_bytes(VALUES, wire) + FRAME_HEADER_BYTES
    piece_s = COSTS.message_s + min(nbytes, PIECE_BYTES) * COSTS.byte_s
    convert_s = 0.0 if wire == "fp32" else COSTS.convert_s + VALUES * getattr(COSTS.convert_s_per_value, wire)
    merge_s = COSTS.merge_s + 2 * VALUES * COSTS.merge_s_per_value
    expected_s = FLOPS / 1e9 + 2 * (convert_s + piece_s) + nbytes / 1e7 + 1e-3 + merge_s
    result = simulate(two_stages(wire), pair(COSTS))
    assert result.latency_s == pytest.approx(expected_s)
    assert result.busy_s == pytest.approx((FLOPS / 1e9 + convert_s, FLOPS / 1e9 + convert_s + merge_s))
    assert result.compute_s == pytest.approx((FLOPS / 1e9,) * 2)


def test_one_core_sends_and_computes_in_turn() -> None:
    """Without a core of their own sends and receives hold the computing thread up for all their bytes."""
    nbytes = 4 * VALUES + FRAME_HEADER_BYTES
    handle_s = COSTS.message_s + nbytes * COSTS.byte_s
    merge_s = COSTS.merge_s + 2 * VALUES * COSTS.merge_s_per_value
    result = simulate(two_stages(), pair(COSTS.model_copy(update={"own_core": False})))
    assert result.latency_s == pytest.approx(FLOPS / 1e9 + 2 * handle_s + nbytes / 1e7 + 1e-3 + merge_s)
    assert result.busy_s == pytest.approx((FLOPS / 1e9 + handle_s, FLOPS / 1e9 + handle_s + merge_s))


def test_who_has_waited_computes_longer() -> None:
    """After the image, and after the message, each device takes a moment more; after several messages only once."""
    merge_s = COSTS.merge_s + 2 * VALUES * COSTS.merge_s_per_value
    cold = COSTS.model_copy(update={"resume_s": 1e-3})
    warm_s, cold_s = (simulate(two_stages(), pair(costs)).latency_s for costs in (COSTS, cold))
    assert cold_s == pytest.approx(warm_s + 2e-3)
    assert simulate(two_stages(), pair(cold)).busy_s == pytest.approx(
        (FLOPS / 1e9 + 1e-3, FLOPS / 1e9 + merge_s + 2e-3)
    )
    plan = build_plan(named_architecture("resnext11_4x4d", 4, "all-to-all"))
    cluster = with_devices(uniform_cluster(4), exchange=ExchangeCosts(resume_s=1e-3))
    longer_s = simulate(plan, cluster).busy_s[1] - simulate(plan, uniform_cluster(4)).busy_s[1]
    merges = sum(isinstance(step, Merge) for step in plan.programs[1])
    assert longer_s == pytest.approx((1 + merges) * 1e-3)  # the image, and before each merge three messages


def test_a_slow_writer_holds_the_wire_up() -> None:
    """On a wire that is faster than TLS the bytes take what writing them takes, not more than that twice."""
    slow = COSTS.model_copy(update={"byte_s": 1e-7})
    nbytes = 4 * VALUES + FRAME_HEADER_BYTES
    merge_s = COSTS.merge_s + 2 * VALUES * COSTS.merge_s_per_value
    read_s = slow.message_s + PIECE_BYTES * slow.byte_s
    result = simulate(two_stages(), pair(slow, bandwidth_bytes_per_s=1e12))
    assert result.latency_s == pytest.approx(FLOPS / 1e9 + 1e-4 + nbytes * 1e-7 + 1e-3 + read_s + merge_s)


def test_time_line_of_a_message() -> None:
    """The time line has conversions and merges in order, and the report draws what it has a place for."""
    result = simulate(two_stages("int8"), pair(COSTS), timeline=True)
    lane = [(span.kind, span.name) for span in result.timeline if span.rank == 1 and span.kind != "transfer"]
    assert lane == [("compute", "s"), ("wait", "r"), ("convert", "r"), ("merge", "m")]
    assert [span.kind for span in result.timeline if span.rank == 0] == ["transfer", "compute", "convert"]
    drawn = [span.kind for span in shown_timeline(predicted_timeline(two_stages("int8"), result)).spans]
    assert sorted(drawn) == ["compute", "compute", "merge", "recv", "send", "wait", "wait"]  # waiting, then taking in


def test_writers_of_a_device_take_turns() -> None:
    """What one device writes to three others takes three times as long to write, even on cables of their own."""
    plan = build_plan(named_architecture("resnext11_4x4d", 4, "all-to-all"))
    link = Link(bandwidth_bytes_per_s=1e15, medium="own")
    cluster = uniform_cluster(4, flops_per_s=1e15).model_copy(update={"links": (link,)})
    costs = ExchangeCosts(byte_s=1e-7)
    sent = max(sum(x.wire_bytes for x in simulate(plan, cluster).links if x.source == rank) for rank in range(4))
    assert simulate(plan, with_devices(cluster, exchange=costs)).latency_s >= sent * 1e-7


def in_order_of_tags(plan: Plan, cluster: Cluster) -> Passage:
    passage = Passage(Work(plan, cluster), Network(cluster))
    passage.play()
    return passage


def test_who_had_a_message_first_sends_first() -> None:
    """Two devices that share the air and send after every block keep it busy: each computes while the other sends."""
    plan = build_plan(named_architecture("resnext20_2x8d", 2, "all-to-all"))
    link = Link(bandwidth_bytes_per_s=1e7, medium="shared")
    cluster = uniform_cluster(2, flops_per_s=1e9).model_copy(update={"links": (link,)})
    alone_s = simulate(plan, cluster.model_copy(update={"links": (Link(bandwidth_bytes_per_s=1e15),)})).latency_s
    air_s = plan.wire_bytes() / 1e7
    found = simulate(plan, cluster)
    assert air_s < found.latency_s < air_s + 0.6 * alone_s
    assert max(in_order_of_tags(plan, cluster).done_s) > found.makespan_s + 0.2 * alone_s


def test_a_fast_device_does_not_wait_for_the_turn_of_a_slow_one() -> None:
    """A message is not held up by one of an earlier block that a slow device will post much later."""
    points = (point(0, ((0, 1),)), point(1, ((2, 3),)), point(2, ((1, 3),)))
    plan = build_plan(
        named_architecture("resnext11_4x8d", 4, TransmissionPolicy(points=points, readout=Readout(device=3)))
    )
    link = Link(bandwidth_bytes_per_s=1e6, medium="shared")
    cluster = uniform_cluster(4, flops_per_s=1e9).model_copy(update={"links": (link,)})
    slow = cluster.devices[0].model_copy(update={"flops_per_s": 1e7})
    cluster = cluster.model_copy(update={"devices": (slow, *cluster.devices[1:])})
    work = Work(plan, cluster)
    take_turns(work)
    pairs = [pair for _, pair, _, _ in work.messages if CLIENT not in pair]
    assert pairs == [(2, 3), (0, 1), (1, 3)]


@QUICK
@given(data=st.data(), architecture=architectures(), batch=st.integers(1, 3))
def test_critical_path_lies_between_computing_and_latency(data: st.DataObject, architecture, batch: int) -> None:
    """The longest computation of a device is no more than the critical path, and that no more than the latency."""
    plan, cluster = build_plan(architecture), data.draw(clusters(architecture.num_devices))
    result, path_s = simulate(plan, cluster, batch), critical_path_s(plan, cluster, batch)
    assert max(result.compute_s) <= path_s * (1 + 1e-12)
    assert path_s <= result.latency_s * (1 + 1e-12)


def test_critical_path_of_two_stages() -> None:
    """The critical path consists of computation, payload over bandwidth, and latency, and nothing else."""
    assert critical_path_s(two_stages(), pair(COSTS)) == pytest.approx(FLOPS / 1e9 + 4 * VALUES / 1e7 + 1e-3)


@QUICK
@given(data=st.data(), architecture=architectures(), percentile=st.floats(0, 100))
def test_without_jitter_all_percentiles_are_the_latency(data: st.DataObject, architecture, percentile: float) -> None:
    """Where nothing varies every percentile is the simulated latency."""
    plan, cluster = build_plan(architecture), data.draw(clusters(architecture.num_devices))
    found = latency_percentile(plan, cluster, percentile, samples=3)
    assert found == pytest.approx(simulate(plan, cluster).latency_s, rel=1e-12)


def test_percentiles_of_jitter() -> None:
    """With jitter percentiles rise, a seed gives the same number again, and the mean of one device's times stays."""
    plan = build_plan(named_architecture("resnext11_4x4d"))
    cluster = with_devices(uniform_cluster(1), jitter=0.3)
    p5, p50, p95 = (latency_percentile(plan, cluster, p, samples=2000, seed=1) for p in (5, 50, 95))
    assert p5 < p50 < p95
    assert p95 == latency_percentile(plan, cluster, 95, samples=2000, seed=1)
    sigma = math.sqrt(math.log(1 + 0.3**2))
    mean_s = simulate(plan, cluster).latency_s
    assert p50 == pytest.approx(mean_s * math.exp(-(sigma**2) / 2), rel=0.03)
    assert p95 == pytest.approx(mean_s * math.exp(1.645 * sigma - sigma**2 / 2), rel=0.05)


def test_percentiles_of_delays() -> None:
    """A link's jitter delays messages by an exponential time of that mean, beyond the latency."""
    cluster = pair(None)
    link = cluster.links[0].model_copy(update={"jitter_s": 0.01})
    jittery = cluster.model_copy(update={"links": (link,)})
    base_s = simulate(two_stages(), cluster).latency_s
    assert simulate(two_stages(), jittery).latency_s == base_s
    for percentile in (50, 90):
        found = latency_percentile(two_stages(), jittery, percentile, samples=4000)
        assert found - base_s == pytest.approx(-0.01 * math.log(1 - percentile / 100), rel=0.08)


@pytest.mark.parametrize("percentile", [-1, 101, math.nan])
def test_percentile_outside(percentile: float) -> None:
    """A percentile outside 0..100 is refused."""
    with pytest.raises(SpecError, match=r"must lie in 0\.\.100"):
        latency_percentile(two_stages(), pair(None), percentile)


@QUICK
@given(data=st.data(), architecture=architectures(), requests=st.integers(1, 5))
def test_one_in_flight_is_the_latency_again_and_again(data: st.DataObject, architecture, requests: int) -> None:
    """With one request in flight each takes the simulated latency, and answers come at that pace."""
    plan, cluster = build_plan(architecture), data.draw(clusters(architecture.num_devices))
    latency_s = simulate(plan, cluster).latency_s
    stream = simulate_stream(plan, cluster, requests, in_flight=1)
    assert stream.latencies_s == pytest.approx((latency_s,) * requests, rel=1e-9)
    assert stream.throughput_per_s == pytest.approx(1 / latency_s, rel=1e-9)


@QUICK
@given(data=st.data(), architecture=architectures(), in_flight=st.integers(1, 4))
def test_streams_obey_their_bounds(data: st.DataObject, architecture, in_flight: int) -> None:
    """No request of a stream is answered faster than alone, and no device works more than all the time."""
    plan, cluster = build_plan(architecture), data.draw(clusters(architecture.num_devices))
    alone = simulate(plan, cluster)
    stream = simulate_stream(plan, cluster, 12, in_flight)
    assert min(stream.latencies_s) >= alone.latency_s * (1 - 1e-9)
    total_s = 12 * max(alone.busy_s)
    assert sum(stream.latencies_s) >= total_s * (1 - 1e-9)


def test_a_pipeline_fills_up() -> None:
    """Two equal stages with two requests in flight answer at the pace of one stage."""
    wide, image = Shape.vector(8), Shape.vector(1)
    programs = (
        (Recv(0, CLIENT, "x"), Compute("s", ("x",), ("y",)), Send("y", Region.whole(wide), "fp32", 1, 1)),
        (Recv(1, 0, "r"), Compute("s", ("r",), ("y",)), Send("y", Region.whole(wide), "fp32", CLIENT, 2)),
    )
    segments = tuple({"s": Segment("s", rank, ("s",), FLOPS, 1, 0, 64)} for rank in range(2))
    inputs, outputs = (Port.whole("x", image, (0, 0)),), (Port.whole("y", wide, (1, 2)),)
    plan = Plan(programs, segments, ({"x": image, "y": wide}, {"r": wide, "y": wide}), inputs, outputs)
    cluster = uniform_cluster(2, 1e9, bandwidth_bytes_per_s=1e12, latency_s=0.0)
    one, two, many = (simulate_stream(plan, cluster, 40, n) for n in (1, 2, 8))
    assert one.throughput_per_s == pytest.approx(1e9 / (2 * FLOPS), rel=1e-3)
    assert two.throughput_per_s == pytest.approx(1e9 / FLOPS, rel=1e-3)
    assert many.throughput_per_s == pytest.approx(1e9 / FLOPS, rel=1e-3)
    assert many.latency_s == pytest.approx(8 * FLOPS / 1e9, rel=1e-3)


@pytest.mark.parametrize("numbers", [{"requests": 0}, {"in_flight": 0}])
def test_empty_streams_are_refused(numbers: dict[str, int]) -> None:
    """A stream without requests, or that lets none through, is refused by name."""
    with pytest.raises(SpecError, match=f"`{next(iter(numbers))}` must be at least 1"):
        simulate_stream(two_stages(), pair(None), **numbers)
