"""Time lines: one form for what was predicted and what was measured, as text, as data and for Perfetto."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Activity, Timeline, predicted_timeline, wires_of
from sepnas.errors import PlanError, SepnasError
from sepnas.report.chrome_trace import chrome_trace
from sepnas.report.from_trace import check_request, measured_timeline
from sepnas.report.text_timeline import LEGEND, MARGIN, longest_steps, text_timelines
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import Trace
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Link, uniform_cluster
from tests.helpers_runtime import export_tiny, lively_network, threads, tiny_architecture, transfer
from tests.strategies import architectures, clusters

QUICK = settings(max_examples=25, deadline=None)


def with_client(cluster: Cluster) -> Cluster:
    """The same, where the way from and to the client costs something."""
    return cluster.model_copy(update={"client_link": Link(bandwidth_bytes_per_s=1e7, latency_s=1e-3)})


def predicted(architecture: Architecture, cluster: Cluster, batch: int = 1) -> Timeline:
    plan = build_plan(architecture)
    return predicted_timeline(plan, simulate(plan, cluster, batch, timeline=True), batch)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Architecture, Path]:
    """An architecture of two devices, and the trace of three requests of two images that real workers answered."""
    folder = tmp_path_factory.mktemp("timeline")
    points = [
        {"after": 0, "transfers": [transfer(1, 0), transfer(0, 1, "int8")]},
        {"after": 2, "transfers": [transfer(1, 0, "fp16"), transfer(0, 1)]},
    ]
    architecture = tiny_architecture(points, devices=2)
    export_tiny(lively_network(architecture), folder / "deployment")
    with threads(folder / "deployment") as hosts, Session(folder / "deployment", hosts) as session:
        for _ in range(3):
            session.infer(random_inputs(session.manifest, 2))
        session.trace(last=3).save(folder / "trace.json")
    architecture.save(folder / "architecture.json")
    uniform_cluster(2).save(folder / "cluster.yaml")
    return architecture, folder / "trace.json"


def steps(timeline: Timeline) -> list[tuple[object, ...]]:
    """What devices did, in order, without times; whether they had to wait is a matter of times."""
    kinds = ("compute", "merge", "send", "recv")
    return [
        (a.rank, a.kind, a.name, a.peer, a.tag, a.payload_bytes, a.wire) for a in timeline.activities if a.kind in kinds
    ]


@QUICK
@given(data=st.data(), architecture=architectures(), batch=st.integers(1, 3))
def test_a_prediction_has_every_step_in_order(data: st.DataObject, architecture: Architecture, batch: int) -> None:
    """Each step of the plan stands in the time line once and in order, no two at once on one device."""
    plan = build_plan(architecture)
    cluster = data.draw(clusters(architecture.num_devices))
    simulation = simulate(plan, cluster, batch, timeline=True)
    timeline = predicted_timeline(plan, simulation, batch)
    assert len(steps(timeline)) == sum(map(len, plan.programs))
    for rank in range(plan.num_devices):
        mine = [a for a in timeline.activities if a.rank == rank and a.kind != "transfer"]
        assert all(first.end_s <= second.start_s + 1e-12 for first, second in pairwise(mine))
        busy_s = sum(a.seconds for a in mine if a.kind in ("compute", "merge"))
        joining_s = sum(s.end_s - s.start_s for s in simulation.timeline if (s.rank, s.kind) == (rank, "merge"))
        assert busy_s == pytest.approx(simulation.compute_s[rank] + joining_s)
    between = [a for a in timeline.activities if a.kind == "transfer" and -1 not in (a.rank, a.peer)]
    assert sum(a.payload_bytes for a in between) == simulation.payload_bytes
    assert [a.tag for a in between] == sorted(m.tag for m in plan.transfers())


def test_a_simulation_without_time_line_is_refused() -> None:
    """A simulation that recorded no spans gives no time line, rather than an empty one."""
    plan = build_plan(named_architecture("resnext11_2x4d", 2))
    with pytest.raises(PlanError, match="no time of segment"):
        predicted_timeline(plan, simulate(plan, uniform_cluster(2)))


def test_predicted_and_measured_have_the_same_steps(traced: tuple[Architecture, Path]) -> None:
    """What real workers did is what was predicted, step for step, with the same bytes and wire formats."""
    architecture, path = traced
    plan, trace = build_plan(architecture), Trace.load(path)
    check_request(plan, trace, 2, path)
    request = trace.requests[2]
    measured = measured_timeline(request, wires_of(plan))
    foreseen = predicted(architecture, with_client(uniform_cluster(2)), batch=2)
    assert steps(measured) == steps(foreseen)
    ways = [
        Counter((a.rank, a.peer, a.tag) for a in t.activities if a.kind == "transfer") for t in (measured, foreseen)
    ]
    assert ways[0] == ways[1] == Counter((m.source, m.destination, m.tag) for m in plan.messages())
    assert measured.latency_s == request.latency_s
    assert (measured.batch, sorted(measured.uncertainty_s)) == (2, [0, 1])


def check_chrome(data: dict, timelines: list[Timeline]) -> None:
    """Assert what the Trace Event Format and its viewers ask of a file."""
    assert json.loads(json.dumps(data)) == data
    events = data["traceEvents"]
    heads, rest = ([e for e in events if (e["ph"] == "M") == head] for head in (True, False))
    assert events == heads + rest
    assert all(e["ts"] >= 0 and isinstance(e["pid"], int) and isinstance(e["tid"], int) for e in rest)
    assert all(first["ts"] <= second["ts"] for first, second in pairwise(rest))
    processes = {e["pid"]: e["args"]["name"] for e in heads if e["name"] == "process_name"}
    assert list(processes.values()) == [timeline.title for timeline in timelines]
    named = [e["tid"] for e in heads if e["name"] == "thread_name"]
    assert len(named) == len(set(named))
    assert {e["tid"] for e in rest} <= set(named)

    slices: dict[int, list[dict]] = {}
    for event in (e for e in rest if e["ph"] == "X"):
        assert {"name", "cat", "dur", "args"} <= set(event)
        slices.setdefault(event["tid"], []).append(event)
    assert sum(map(len, slices.values())) == sum(len(timeline.activities) for timeline in timelines)
    for lane in slices.values():
        for first, second in pairwise(lane):
            assert round(1e3 * (first["ts"] + first["dur"])) <= round(1e3 * second["ts"])
    check_flows(rest)


def check_flows(events: list[dict]) -> None:
    """Assert that each arrow has two ends, from a message to what took it in, later, in the slice begun last."""
    latest: dict[int, dict] = {}
    starts: dict[int, dict] = {}
    ended = set()
    for event in events:
        if event["ph"] == "X":
            latest[event["tid"]] = event
        elif event["ph"] == "s":
            assert latest[event["tid"]]["cat"] == "transfer"
            assert event["id"] not in starts
            starts[event["id"]] = latest[event["tid"]]
        elif event["ph"] == "f":
            assert event["bp"] == "e"
            message, taken = starts[event["id"]], latest[event["tid"]]
            assert taken["cat"] == "recv"
            assert message["args"]["tag"] == taken["args"]["tag"]
            assert message["pid"] == taken["pid"]
            ended.add(event["id"])
    assert ended == set(starts)


@QUICK
@given(data=st.data(), architecture=architectures())
def test_chrome_traces_are_what_the_format_asks(data: st.DataObject, architecture: Architecture) -> None:
    """Events are sorted, nest, and are named; each wait for a message has an arrow that leads to its end."""
    timeline = predicted(architecture, with_client(data.draw(clusters(architecture.num_devices))))
    found = chrome_trace([timeline, timeline])
    check_chrome(found, [timeline, timeline])
    waits = sum(a.kind == "wait" for a in timeline.activities)
    assert sum(e["ph"] == "f" for e in found["traceEvents"]) == 2 * waits


def test_chrome_traces_of_real_requests(traced: tuple[Architecture, Path]) -> None:
    """A measured time line beside the predicted one is a valid file, and messages tell peer, bytes and wire format."""
    architecture, path = traced
    wires = wires_of(build_plan(architecture))
    timelines = [predicted(architecture, uniform_cluster(2), 2)]
    timelines += [measured_timeline(request, wires) for request in Trace.load(path).requests]
    found = chrome_trace(timelines)
    check_chrome(found, timelines)
    messages = [e["args"] for e in found["traceEvents"] if e.get("cat") == "transfer" and e["pid"] == 2]
    facts = {(m["tag"], m["bytes"], m["wire"]) for m in messages}
    assert facts == {(m.tag, m.payload_bytes(2), m.wire) for m in build_plan(architecture).messages()}
    assert {wire for _, _, wire in facts} == {"fp32", "fp16", "int8", "uint8"}


def test_clocks_that_disagree_make_no_invalid_file() -> None:
    """What seems to happen before the request was sent, or to arrive before it left, has no negative time or arrow."""
    activities = (
        Activity(0, "wait", "x", -2e-5, 1e-5, 1, 7),
        Activity(0, "recv", "x", 1e-5, 2e-5, 1, 7, 4),
        Activity(1, "transfer", "x", 3e-5, 3e-5, 0, 7, 4),
    )
    timeline = Timeline("measured", 4e-5, activities)
    found = chrome_trace([timeline])
    check_chrome(found, [timeline])
    assert not any(e["ph"] in "sf" for e in found["traceEvents"])


def test_messages_at_the_same_time_have_threads_of_their_own() -> None:
    """Perfetto drops slices that overlap on a thread: messages that do are on different ones."""
    timeline = predicted(named_architecture("resnext11_4x4d", 4, "all-to-all"), uniform_cluster(4))
    found = chrome_trace([timeline])
    check_chrome(found, [timeline])
    names = [e["args"]["name"] for e in found["traceEvents"] if e["name"] == "thread_name"]
    assert {"device 1", "device 1 to others", "device 1 to others (2)"} <= set(names)


def test_bars_have_the_width_and_the_marks() -> None:
    """Half a line of computing is half a line of signs, and the scale has the bars' length."""
    activities = (
        Activity(0, "compute", "a", 0.0, 0.004),
        Activity(0, "merge", "m", 0.004, 0.005),
        Activity(0, "wait", "r", 0.005, 0.008, 1, 3),
        Activity(0, "compute", "b", 0.009, 0.009),
        Activity(0, "transfer", "x", 0.004, 0.008, 1, 2, 10),
    )
    text = text_timelines([Timeline("predicted", 0.01, activities)], MARGIN + 101)
    title, bar, messages, _, ruler, numbers, _, legend, _ = text.split("\n")
    assert title == "predicted: the answer after 10 ms"
    assert bar == "device 0".ljust(MARGIN) + "#" * 40 + "+" * 10 + "." * 30
    assert messages == "  messages".ljust(MARGIN) + " " * 40 + "-" * 40
    assert len(ruler) == MARGIN + 100
    assert numbers.split()[:2] == ["0", "ms"]
    assert legend == LEGEND


@pytest.mark.parametrize("latency_s", [0.0, 1e-9, 3.3e-4, 0.02, 7.0, 5e4])
@pytest.mark.parametrize("width", [1, 20, 79, 300])
def test_bars_fit_any_time_and_width(latency_s: float, width: int) -> None:
    """From nothing to a day, on narrow terminals and wide ones: no line is longer than the bars may be."""
    activities = (Activity(0, "compute", "a", 0.0, latency_s),) if latency_s else ()
    text = text_timelines([Timeline("t", latency_s, activities)], width)
    lines = text.split("\n")[1:-2]
    assert max(map(len, lines)) <= max(width, MARGIN + 21)


def test_the_longest_steps_stand_beside_each_other() -> None:
    """A step has one row with its time in each time line, the longest first."""
    first = Timeline("a", 1.0, (Activity(0, "compute", "x", 0, 0.2), Activity(0, "compute", "y", 0.2, 0.5)))
    second = Timeline("b", 1.0, (Activity(0, "compute", "x", 0, 0.4), Activity(0, "wait", "z", 0.4, 0.5, 1, 3)))
    assert list(longest_steps([first, second], 2)) == [
        ("device 0 computes x", "200 ms", "400 ms"),
        ("device 0 computes y", "300 ms", ""),
    ]


def call(*arguments: object) -> str:
    """What a command that succeeds prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_simulate_writes_time_lines(tmp_path: Path) -> None:
    """`simulate --timeline` prints bars under its table, or nothing but JSON, or writes a file."""
    network = ("simulate", "resnext11_2x4d", "-n", 2)
    text = call(*network, "--timeline", "text")
    assert "answer after" in text
    assert LEGEND in text
    (timeline,) = json.loads(call(*network, "--timeline", "json"))["timelines"]
    assert {a["kind"] for a in timeline["activities"]} >= {"compute", "send", "recv", "transfer"}
    assert call(*network, "--timeline", "chrome").startswith('{"traceEvents"')
    assert "ui.perfetto.dev" in call(*network, "--timeline", "chrome", "--out", tmp_path / "t.json")
    check_chrome(json.loads((tmp_path / "t.json").read_text()), [predicted_of(timeline)])


def predicted_of(data: dict) -> Timeline:
    """A time line from its JSON."""
    return Timeline(data["title"], data["latency_s"], tuple(Activity(**each) for each in data["activities"]))


def test_trace_shows_the_measurement(traced: tuple[Architecture, Path], tmp_path: Path) -> None:
    """`trace` shows the last request or the one asked for, alone or beside the prediction."""
    path = traced[1]
    alone = call("trace", path)
    assert "measured: the answer after" in alone
    assert "predicted" not in alone
    beside = ("--architecture", path.with_name("architecture.json"), "--cluster", path.with_name("cluster.yaml"))
    assert "predicted: the answer after" in call("trace", path, *beside)
    latencies = {
        json.loads(call("trace", path, "--request", n, "--timeline", "json"))["timelines"][0]["latency_s"]
        for n in (1, 2, 3)
    }
    assert latencies == {request.latency_s for request in Trace.load(path).requests}
    call("trace", path, *beside, "--timeline", "chrome", "--out", tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["predicted", "measured"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "trace.json", "--out", "x"], "needs --timeline json or chrome"),
        (["trace", "trace.json", "--cluster", "cluster.yaml"], "--cluster needs --architecture too"),
        (["trace", "trace.json", "--architecture", "architecture.json"], "--architecture needs --cluster too"),
        (["simulate", "resnext11_2x4d", "--out", "x"], "needs --timeline json or chrome"),
        (["simulate", "resnext11_2x4d", "--json", "--timeline", "text"], "no --timeline"),
        (["trace", "trace.json", "--timeline", "svg"], "'svg' is not one of"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], said: str) -> None:
    """A combination that would ignore an option is refused with what is allowed."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def refusal(*arguments: object) -> str:
    """The message of the error with which a command ends."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SepnasError), result.output
    return str(result.exception)


def test_traces_that_cannot_be_shown(traced: tuple[Architecture, Path], tmp_path: Path) -> None:
    """No file, half a file, no request and a request that is not there are told with the file and the field."""
    path = traced[1]
    assert "none.json: no such file" in refusal("trace", tmp_path / "none.json")
    half = tmp_path / "half.json"
    half.write_text(path.read_text()[:1000])
    assert "half.json: not valid JSON" in refusal("trace", half)
    empty = Trace(deployment_id="d", requests=()).save(tmp_path / "empty.json")
    assert "empty.json: field `requests`: holds no request" in refusal("trace", empty)
    assert "holds no request 9; it has 3, from 1 to 3" in refusal("trace", path, "--request", 9)


def test_a_trace_is_not_laid_beside_another_network(traced: tuple[Architecture, Path], tmp_path: Path) -> None:
    """A trace of another policy or on another number of devices is told, and so is a cluster with too few."""
    path, cluster = traced[1], uniform_cluster(4).save(tmp_path / "four.yaml")
    one = uniform_cluster(1).save(tmp_path / "one.yaml")
    points = [{"after": 0, "transfers": [transfer(1, 0)]}]
    other = tiny_architecture(points, devices=2).save(tmp_path / "other.json")
    more = tiny_architecture(points, "mean", devices=3).save(tmp_path / "more.json")

    def beside(architecture: Path, cluster: Path) -> str:
        return refusal("trace", path, "--architecture", architecture, "--cluster", cluster)

    assert f"{path}: field `requests.2.devices.0.steps.2`: is send 'b0'" in beside(other, cluster)
    assert "field `requests.2.devices`: was taken on the devices [0, 1], but the plan computes on" in beside(
        more, cluster
    )
    assert "one.yaml: field `devices`: has 1, but" in beside(path.with_name("architecture.json"), one)
