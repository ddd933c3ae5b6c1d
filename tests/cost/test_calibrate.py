"""Calibrating: a cluster that is corrected by what real requests took predicts them."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.accept import calibrate_checked
from sepnas.cost.calibrate import calibrate
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Timeline, predicted_timeline
from sepnas.errors import PlanError, SepnasError, SpecError
from sepnas.plan.document import save_plan
from sepnas.plan.plan import Plan
from sepnas.report.from_trace import measured_timeline
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import DeviceRecord, RequestRecord, StepRecord, Trace
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device, Link, uniform_cluster
from sepnas.spec.device_profile import ExchangeCosts
from tests.cost.test_cost_times import profile_of
from tests.cost.test_rated_operators import FOUR, ONE
from tests.helpers_runtime import export_tiny, lively_network, threads, tiny_architecture, transfer

NETWORK = named_architecture("resnext20_4x8d", 4, "hand-made", num_classes=10)
PLAN = build_plan(NETWORK)
PLAIN = uniform_cluster(4)


def timeline_on(cluster: Cluster, plan: Plan = PLAN, batch: int = 1) -> Timeline:
    """A request as if it were measured on a cluster that behaves as it is described."""
    return predicted_timeline(plan, simulate(plan, cluster, batch, timeline=True), batch)


def diverse_cluster(link: Link, client_link: Link | None = None) -> Cluster:
    """Four devices of different speeds."""
    speeds = ((4e9, 3e-5), (5e9, 0.0), (1.5e10, 2e-4), (3e9, 1e-6))
    devices = tuple(
        Device(name=f"device{rank}", flops_per_s=rate, layer_overhead_s=constant_s, memory_bytes=1 << 30)
        for rank, (rate, constant_s) in enumerate(speeds)
    )
    return Cluster(devices=devices, links=(link,), client_link=client_link)


def wrong(cluster: Cluster) -> Cluster:
    """The same devices and links with other figures."""
    devices = tuple(d.model_copy(update={"flops_per_s": 5e9, "layer_overhead_s": 1e-5}) for d in cluster.devices)
    figures = {"bandwidth_bytes_per_s": 3e6, "latency_s": 9e-3}
    links = tuple(link.model_copy(update=figures) for link in cluster.links)
    client = None if cluster.client_link is None else cluster.client_link.model_copy(update=figures)
    return cluster.model_copy(update={"devices": devices, "links": links, "client_link": client})


def assert_same_figures(found: Cluster, wanted: Cluster) -> None:
    for one, other in zip(found.devices, wanted.devices, strict=True):
        assert one.flops_per_s == pytest.approx(other.flops_per_s, rel=1e-6)
        assert one.layer_overhead_s == pytest.approx(other.layer_overhead_s, rel=1e-6, abs=1e-12)
    for link, like in zip(found.links, wanted.links, strict=True):
        assert link.bandwidth_bytes_per_s == pytest.approx(like.bandwidth_bytes_per_s, rel=1e-6)
        assert link.latency_s == pytest.approx(like.latency_s, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("medium", ["own", "switch", "shared"])
def test_the_figures_of_a_cluster_are_found_again(medium: str) -> None:
    """Requests on a cluster that follows the model give its own figures back, also where messages take turns."""
    link = Link(bandwidth_bytes_per_s=2e8, latency_s=4e-4, message_overhead_s=1e-4, medium=medium)
    client = Link(bandwidth_bytes_per_s=1e8, latency_s=2e-3)
    other = diverse_cluster(link, client)
    plan = build_plan(named_architecture("resnext38_4x8d", 4, "hand-made", num_classes=10))
    found = calibrate(plan, wrong(other), [timeline_on(other, plan)] * 2).cluster
    assert_same_figures(found, other)
    after, measured = simulate(plan, found), simulate(plan, other)
    assert after.compute_s == pytest.approx(measured.compute_s)


@pytest.mark.parametrize("own_core", [True, False])
def test_processor_time_of_a_message_is_not_the_links(own_core: bool) -> None:
    """With exchange costs a right cluster stays what it is, and a wrong link is corrected to the right one."""
    costs = ExchangeCosts(message_s=1.5e-4, byte_s=4e-9, convert_s=2e-5, merge_s=1e-5, own_core=own_core)
    link = Link(bandwidth_bytes_per_s=2e7, latency_s=4e-4, medium="own")
    other = diverse_cluster(link)
    other = other.model_copy(update={"devices": tuple(d.model_copy(update={"exchange": costs}) for d in other.devices)})
    plan = build_plan(named_architecture("resnext20_4x8d", 4, "hand-made", num_classes=10, output_channels=16))
    measured = [timeline_on(other, plan)] * 2
    slower = other.model_copy(update={"links": (link.model_copy(update={"latency_s": 9e-3}),)})
    for before in (other, slower):
        found = calibrate(plan, before, measured).cluster.links[0]
        assert found.latency_s == pytest.approx(4e-4, rel=1e-3)
        assert found.bandwidth_bytes_per_s == pytest.approx(2e7, rel=1e-3)


def test_the_clients_link_is_found_again() -> None:
    """What the client's messages of different sizes take corrects its link, and nothing where it costs nothing."""
    link = Link(bandwidth_bytes_per_s=1e8)
    other = diverse_cluster(link, Link(bandwidth_bytes_per_s=1e6, latency_s=2e-3))
    found = calibrate(PLAN, wrong(other), [timeline_on(other, batch=batch) for batch in (1, 2, 5)])
    assert found.cluster.client_link is not None
    assert found.cluster.client_link.bandwidth_bytes_per_s == pytest.approx(1e6)
    assert found.cluster.client_link.latency_s == pytest.approx(2e-3)
    assert calibrate(PLAN, diverse_cluster(link), [timeline_on(other)]).cluster.client_link is None


def test_links_of_pairs_are_distinguished() -> None:
    """Each link is corrected by its own messages, and one without messages is kept."""
    link = Link(bandwidth_bytes_per_s=1e7, latency_s=1e-3)
    slow = Link(between=("device0", "device1"), bandwidth_bytes_per_s=1e7, latency_s=3e-2)
    other = diverse_cluster(link).model_copy(update={"links": (link, slow)})
    near = tuple(each.model_copy(update={"latency_s": 2e-3}) for each in other.links)
    found = calibrate(PLAN, other.model_copy(update={"links": near}), [timeline_on(other)])
    assert [each.name for each in found.links] == ["link all", "link device0-device1"]
    assert [each.after.latency_s for each in found.links] == pytest.approx([1e-3, 3e-2])
    alone = build_plan(named_architecture("resnext11_1x4d"))
    kept = calibrate(alone, other, [timeline_on(other, alone)])
    assert kept.cluster.links == other.links
    assert {each.how for each in kept.links} == {"kept: no message was waited for"}
    assert [each.how for each in kept.devices[1:]] == ["computed nothing"] * 3


def test_few_segments_only_scale() -> None:
    """One segment does not tell a rate from a constant: both are scaled, and the prediction is right."""
    plan = build_plan(named_architecture("resnext11_1x4d"))
    other = diverse_cluster(Link(bandwidth_bytes_per_s=1e7))
    found = calibrate(plan, wrong(other), [timeline_on(other, plan)])
    assert found.devices[0].how.startswith("scaled by")
    before, after = found.devices[0].before, found.devices[0].after
    assert before.flops_per_s / after.flops_per_s == pytest.approx(found.devices[0].ratio)
    assert after.layer_overhead_s / before.layer_overhead_s == pytest.approx(found.devices[0].ratio)
    assert simulate(plan, found.cluster).compute_s == pytest.approx(simulate(plan, other).compute_s)


def test_a_measured_profile_is_scaled_as_a_whole() -> None:
    """A device that became twice as slow as its profile is found to be, and computing is predicted again."""
    operators = dict.fromkeys(each for segments in PLAN.segments for s in segments.values() for each in s.operators)
    profile = profile_of(list(operators), noise=0.0)
    fast, slow = (
        PLAIN.model_copy(update={"devices": tuple(d.model_copy(update={"profile": p}) for d in PLAIN.devices)})
        for p in (profile, profile.scaled(2.0))
    )
    found = calibrate(PLAN, fast, [timeline_on(slow)])
    assert [each.ratio for each in found.devices] == pytest.approx([2.0] * 4)
    assert simulate(PLAN, found.cluster).compute_s == pytest.approx(simulate(PLAN, slow).compute_s)
    assert simulate(PLAN, found.cluster).compute_s != pytest.approx(simulate(PLAN, fast).compute_s)


def test_rates_are_scaled_as_a_whole() -> None:
    """A device on several threads that is half as fast as its rates is found to be, whatever its number of threads."""
    fast, slow = (
        PLAIN.model_copy(update={"devices": tuple(d.model_copy(update={"rates": r}) for d in PLAIN.devices)})
        for r in ((ONE, FOUR), (ONE.scaled(2.0), FOUR.scaled(2.0)))
    )
    found = calibrate(PLAN, fast, [timeline_on(slow)])
    assert [each.ratio for each in found.devices] == pytest.approx([2.0] * 4)
    assert {each.how.split(" by")[0] for each in found.devices} == {"rates scaled"}
    assert found.cluster.devices[0].rates == tuple(each.scaled(found.devices[0].ratio or 0.0) for each in (ONE, FOUR))
    assert simulate(PLAN, found.cluster).compute_s == pytest.approx(simulate(PLAN, slow).compute_s)


def noisy(timeline: Timeline, random_: random.Random, spread: float) -> Timeline:
    """The same with computing times that vary by a factor, the messages as they were."""
    activities = tuple(
        replace(a, end_s=a.start_s + a.seconds * math.exp(random_.gauss(0, spread))) if a.kind == "compute" else a
        for a in timeline.activities
    )
    return replace(timeline, activities=activities)


def test_noise_of_requests_averages_out() -> None:
    """With many requests whose times vary by a third the computing time comes out within a few percent."""
    other, random_ = diverse_cluster(Link(bandwidth_bytes_per_s=1e8)), random.Random(0)
    timelines = [noisy(timeline_on(other), random_, 0.3) for _ in range(60)]
    found = calibrate(PLAN, wrong(other), timelines).cluster
    assert simulate(PLAN, found).compute_s == pytest.approx(simulate(PLAN, other).compute_s, rel=0.08)
    assert all(device.layer_overhead_s >= 0 for device in found.devices)


def test_messages_shorter_than_the_clocks_are_sure_of_tell_nothing() -> None:
    """Times that the clocks do not vouch for change no link; computing is timed by one clock and counts."""
    other = diverse_cluster(Link(bandwidth_bytes_per_s=1e8, latency_s=1e-4))
    unsure = replace(timeline_on(other), uncertainty_s=dict.fromkeys(range(4), 1.0))
    found = calibrate(PLAN, wrong(other), [unsure])
    assert found.cluster.links == wrong(other).links
    assert found.links[0].how == "kept: shorter than the clocks' uncertainty"
    assert found.cluster.devices[0].flops_per_s == pytest.approx(4e9)


def test_sizes_that_are_alike_correct_the_latency_only() -> None:
    """Messages of one size leave the bandwidth as it is, and are predicted right."""
    plan = build_plan(named_architecture("resnext11_2x4d", 2, "none"))  # one message: the logits
    other = uniform_cluster(2, bandwidth_bytes_per_s=1e6, latency_s=2e-3)
    start = uniform_cluster(2, bandwidth_bytes_per_s=4e6, latency_s=1e-3)
    found = calibrate(plan, start, [timeline_on(other, plan)] * 3)
    assert found.links[0].how == "latency of 1 message"
    assert found.cluster.links[0].bandwidth_bytes_per_s == 4e6
    assert simulate(plan, found.cluster).latency_s == pytest.approx(simulate(plan, other).latency_s)


def test_a_bandwidth_that_is_too_low_even_without_latency() -> None:
    """Messages of one size that come sooner than the bandwidth allows correct it, and no latency gets negative."""
    plan = build_plan(named_architecture("resnext11_2x4d", 2, "none"))
    other = uniform_cluster(2, bandwidth_bytes_per_s=1e6, latency_s=0)
    found = calibrate(plan, uniform_cluster(2, bandwidth_bytes_per_s=1e4), [timeline_on(other, plan)])
    assert found.links[0].how == "bandwidth of 1 message"
    assert found.cluster.links[0].latency_s == 0
    assert simulate(plan, found.cluster).latency_s == pytest.approx(simulate(plan, other).latency_s)


# --- the command ---


def as_trace(timelines: list[Timeline]) -> Trace:
    """What workers would have recorded."""
    requests = []
    for number, timeline in enumerate(timelines, start=1):
        arrived = {a.tag: a.end_s for a in timeline.activities if a.kind == "transfer"}
        waits = {a.tag: a.start_s for a in timeline.activities if a.kind == "wait"}
        devices = []
        for rank in sorted({a.rank for a in timeline.activities if a.kind == "compute"}):
            steps = [
                StepRecord(
                    step=a.kind, name=a.name, start_s=waits.get(a.tag, a.start_s) if a.kind == "recv" else a.start_s,
                    end_s=a.end_s, peer=a.peer, tag=a.tag, payload_bytes=a.payload_bytes,
                    arrived_s=arrived.get(a.tag, 0.0) if a.kind == "recv" else None,
                )
                for a in timeline.activities
                if a.rank == rank and a.kind in ("compute", "merge", "send", "recv")
            ]  # fmt: skip
            devices.append(DeviceRecord(rank=rank, uncertainty_s=0.0, steps=tuple(steps)))
        end_s = timeline.latency_s
        requests.append(
            RequestRecord(request=number, batch=timeline.batch, sent_s=0.0, answered_s=end_s, devices=tuple(devices))
        )
    return Trace(deployment_id="d", requests=tuple(requests))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an architecture, a cluster, and the trace of three requests on another cluster."""
    link = Link(bandwidth_bytes_per_s=2e7, latency_s=4e-4)
    other = diverse_cluster(link, link)
    as_trace([timeline_on(other)] * 3).save(tmp_path / "trace.json")
    NETWORK.save(tmp_path / "architecture.json")
    # of the client's messages only one size is seen without others before it: its bandwidth is known
    client = {"client_link": link.model_copy(update={"latency_s": 9e-3})}
    wrong(other).model_copy(update=client).save(tmp_path / "cluster.yaml")
    other.save(tmp_path / "other.yaml")
    return tmp_path


def invoke(folder: Path, out: str = "out.yaml", **names: str):  # type: ignore[no-untyped-def]
    names = {"architecture": "architecture.json", "cluster": "cluster.yaml", "trace": "trace.json"} | names
    options = [f"--{option}={folder / names[option]}" for option in ("architecture", "cluster")]
    arguments = ["calibrate", str(folder / names["trace"]), *options, f"--out={folder / out}"]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def test_a_cluster_file_is_corrected(files: Path) -> None:
    """The command writes the other cluster's figures, and its table shows that they predict what was measured."""
    result = invoke(files)
    assert result.exit_code == 0, result.output
    found = Cluster.load(files / "out.yaml")
    assert_same_figures(found, Cluster.load(files / "other.yaml"))
    latency = next(line for line in result.stdout.splitlines() if "1 image: latency" in line)
    before, after, measured = re.split("  +", latency.strip())[1:4]
    assert before != after == measured
    assert "device2 computes" in result.stdout
    assert (files / "out.yaml").read_text().startswith("# corrected by a trace of 3 requests\n")


def test_a_plan_stands_for_the_architecture(files: Path) -> None:
    """Calibrating and tracing by the plan's file give what they give by the architecture's."""
    save_plan(PLAN, files / "plan.json")
    by_plan, by_architecture = invoke(files, architecture="plan.json", out="a.yaml"), invoke(files, out="b.yaml")
    assert by_plan.output.replace("a.yaml", "b.yaml") == by_architecture.output
    assert (files / "a.yaml").read_text() == (files / "b.yaml").read_text()
    options = [str(files / "trace.json"), f"--cluster={files / 'cluster.yaml'}"]
    shown = [
        CliRunner().invoke(app, ["trace", *options, f"--architecture={files / name}"]).output
        for name in ("plan.json", "architecture.json")
    ]
    assert shown[0] == shown[1]
    assert "predicted" in shown[0]


def test_a_cluster_file_may_be_corrected_in_place(files: Path) -> None:
    """The same name for the old and the new file is allowed, and correcting a right cluster keeps it."""
    assert invoke(files, out="cluster.yaml").exit_code == 0
    first = Cluster.load(files / "cluster.yaml")
    assert invoke(files, out="cluster.yaml").exit_code == 0
    assert_same_figures(Cluster.load(files / "cluster.yaml"), first)


def test_a_trace_of_real_workers_improves_the_prediction(tmp_path: Path) -> None:
    """After calibrating on a real request its latency is predicted better than before, and all figures are valid."""
    points = [{"after": block, "transfers": [transfer(1, 0), transfer(0, 1)]} for block in (0, 2)]
    architecture = tiny_architecture(points, devices=2)
    export_tiny(lively_network(architecture), tmp_path / "deployment")
    with threads(tmp_path / "deployment") as hosts, Session(tmp_path / "deployment", hosts) as session:
        for _ in range(20):
            session.infer(random_inputs(session.manifest, 1))
        requests = sorted(session.trace(last=15).requests, key=lambda each: measured_timeline(each).latency_s)
    # one request fifteen times: on a busy machine requests differ by more than any prediction
    trace = Trace(deployment_id=session.manifest.deployment_id, requests=(requests[7],) * 15)
    before = uniform_cluster(2, flops_per_s=1e12, latency_s=1e-6)  # far too fast
    trace.save(tmp_path / "trace.json")
    architecture.save(tmp_path / "architecture.json")
    before.save(tmp_path / "cluster.yaml")
    assert invoke(tmp_path).exit_code == 0
    plan, after = build_plan(architecture), Cluster.load(tmp_path / "out.yaml")
    measured_s = measured_timeline(requests[7]).latency_s
    misses = [abs(simulate(plan, cluster).latency_s - measured_s) for cluster in (before, after)]
    assert misses[1] < misses[0]


def test_a_correction_that_predicts_worse_is_refused(files: Path) -> None:
    """Where the steps of a trace do not add up to its latency, the cluster that is right about it stays, and both
    errors are told."""

    def hasten(requests: list[dict]) -> None:  # type: ignore[type-arg]
        for step in (step for request in requests for device in request["devices"] for step in device["steps"]):
            if step["step"] == "compute":
                step["end_s"] = step["start_s"] + (step["end_s"] - step["start_s"]) / 9
            elif step["step"] == "recv":
                step["start_s"], step["arrived_s"] = step["end_s"], step["end_s"] - 1e-6  # nobody waited

    other = diverse_cluster(Link(bandwidth_bytes_per_s=2e7, latency_s=4e-4))
    other.save(files / "other.yaml")
    as_trace([timeline_on(other)] * 3).save(files / "trace.json")
    changed(files / "trace.json", hasten)
    text = (files / "other.yaml").read_text()
    result = invoke(files, cluster="other.yaml", out="other.yaml")
    said = refused(result, PlanError)
    assert result.exit_code == 1
    assert "predicts worse than" in said
    assert "0.0% before" in said
    assert "by 1 request held out; " in said
    assert (files / "other.yaml").read_text() == text


def test_only_helpful_corrections_are_made() -> None:
    """Wrong times of computing beside right times of messages: the links are corrected, the devices are kept."""
    link = Link(bandwidth_bytes_per_s=2e7, latency_s=4e-4)
    other = diverse_cluster(link, link)
    slow = other.model_copy(update={"links": (link.model_copy(update={"latency_s": 9e-3}),)})
    timeline = timeline_on(other)
    hasty = tuple(
        replace(each, end_s=each.start_s + each.seconds / 9) if each.kind == "compute" else each
        for each in timeline.activities
    )
    checked = calibrate_checked(PLAN, slow, [replace(timeline, activities=hasty)] * 4)
    assert checked.better
    assert checked.held_out == 2
    assert checked.error_after < 0.1 < checked.error_before
    assert checked.calibration.cluster.devices == other.devices
    assert {each.how for each in checked.calibration.devices} == {"kept: with it held-out requests are predicted worse"}


def changed(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    data = Trace.load(path).to_data()
    change(data["requests"])
    Trace.from_data(data).save(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.clear(), "trace.json: field `requests`: holds no request"),
        (lambda r: r[1]["devices"].pop(), "field `requests.1.devices`: was taken on the devices [0, 1, 2], but"),
        (lambda r: r[2]["devices"][0]["steps"].pop(), "field `requests.2.devices.0.steps`: ends after"),
        (lambda r: r[0]["devices"][3]["steps"].clear(), "field `requests.0.devices.3.steps`: ends after 0 of the"),
        (lambda r: r[0]["devices"][1]["steps"].append(r[0]["devices"][1]["steps"][0]), "has nothing more; give the"),
        (
            lambda r: r[0]["devices"][1]["steps"][1].update(name="b9"),
            "field `requests.0.devices.1.steps.1`: is compute",
        ),
        (
            lambda r: r[0]["devices"][0]["steps"][0].update(payload_bytes=9),
            "of 9 bytes (peer -1), but the plan has recv",
        ),
        (lambda r: r[0].update(batch=2), "field `requests.0.devices.0.steps.0`: is recv 'x' of"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused(change, said: str, files: Path) -> None:  # type: ignore[no-untyped-def]
    """A trace that is empty, cut short or of another network is told with its file and field; nothing is written."""
    changed(files / "trace.json", change)
    result = invoke(files)
    assert isinstance(result.exception, SpecError)
    assert said in str(result.exception)
    assert str(result.exception).startswith(str(files / "trace.json"))
    assert not (files / "out.yaml").exists()


def refused(result: object, kind: type[SepnasError]) -> str:
    error = result.exception  # type: ignore[attr-defined]
    assert isinstance(error, kind)
    return str(error)


def test_files_that_do_not_fit_are_refused(files: Path) -> None:
    """Another architecture, half a trace, too few devices, a missing link and a folder to write are told by name."""
    named_architecture("resnext20_4x8d", 4, "all-to-all", num_classes=10).save(files / "a.json")
    assert "but the plan has" in refused(invoke(files, architecture="a.json"), SpecError)
    text = (files / "trace.json").read_text()
    (files / "half.json").write_text(text[: len(text) // 2])
    assert "half.json: not valid JSON" in refused(invoke(files, trace="half.json"), SpecError)
    (files / "less.json").write_text('{"deployment_id": "d"}')
    assert "field `requests`: is missing" in refused(invoke(files, trace="less.json"), SpecError)
    uniform_cluster(3).save(files / "small.yaml")
    said = refused(invoke(files, cluster="small.yaml"), SpecError)
    assert "small.yaml: field `devices`: has 3, but" in said
    assert "needs 4" in said
    PLAIN.model_copy(update={"links": ()}).save(files / "apart.yaml")
    assert "has no link between" in refused(invoke(files, cluster="apart.yaml"), PlanError)
    assert "is a folder" in refused(invoke(files, out=""), SepnasError)
    assert not (files / "out.yaml").exists()


def test_a_trace_of_another_size_of_network_is_refused(files: Path) -> None:
    """Parts of the same steps that send more values are noticed by their bytes."""
    parts = [part | {"output_channels": 2 * part["output_channels"]} for part in NETWORK.to_data()["parts"]]
    Architecture.from_data(NETWORK.to_data() | {"parts": parts}).save(files / "wide.json")
    assert "bytes (peer" in refused(invoke(files, architecture="wide.json"), SpecError)
