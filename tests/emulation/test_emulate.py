"""Emulated clusters: the pace of devices, links in processes and in network namespaces, and what remains of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.routes import Network
from sepnas.cost.simulator import simulate
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import load_manifest
from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import emulated_cluster, open_session, read_setting
from sepnas.emulation.device import load_emulated
from sepnas.emulation.link_shaping import Shaper
from sepnas.emulation.namespaces import remove_leftovers, why_no_namespaces
from sepnas.emulation.pace import EmulatedPace
from sepnas.emulation.settings import emulations, step_seconds
from sepnas.emulation.shared_clock import SharedClock
from sepnas.errors import ExchangeError, PeerUnreachableError, PlanError, SpecError
from sepnas.plan.steps import CLIENT, Compute
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.shard import load_shard
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.protocol.events import Data, Hello, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.pipes import PlainPipe
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.device_profile import ExchangeCosts
from sepnas.spec.emulation import EmulatedLink, Emulation
from sepnas.spec.hosts import parse_address
from tests.helpers_runtime import (
    SOON_S,
    eventually,
    export_tiny,
    lively_network,
    threads,
    tiny_architecture,
    transfer,
)
from tests.limits import PROCESS_S

NO_NAMESPACES = "they need root" if os.geteuid() else None
SLOW = Link(bandwidth_bytes_per_s=125e3, latency_s=0.02)
SHAPINGS = ["process", pytest.param("netns", marks=pytest.mark.skipif(bool(NO_NAMESPACES), reason=str(NO_NAMESPACES)))]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Two devices that send each other a message after each of three blocks."""
    folder = tmp_path_factory.mktemp("emulated") / "deployment"
    points = [{"after": block, "transfers": [transfer(0, 1), transfer(1, 0)]} for block in range(3)]
    export_tiny(lively_network(tiny_architecture(points, devices=2, depth=11)), folder)
    return folder


def cluster_of(link=SLOW, devices=2, flops_per_s=2e6, **fields):
    boards = tuple(Device(name=f"d{rank}", flops_per_s=flops_per_s, memory_bytes=1 << 30) for rank in range(devices))
    return Cluster(devices=boards, links=(link,), **fields)


@pytest.fixture
def plan(deployment):
    return deployed_plan(deployment)


def setting_of(deployment, tmp_path, shaping, cluster=None, jitter_s=0.0):
    path = (cluster or cluster_of(client_link=SLOW)).save(tmp_path / "cluster.yaml")
    return read_setting(deployment, path, shaping, 1, jitter_s, insecure=False)


def left_of(pid):
    """Namespaces, folders and child processes of a process of ours."""
    folders = [Path("/run/netns"), Path("/dev/shm"), Path("/tmp")]
    named = [str(path) for folder in folders if folder.is_dir() for path in folder.glob(f"sepnas-{pid}-*")]
    workers = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "worker" in words and any(f"sepnas-{pid}-emulation" in word for word in words):
            workers.append(entry.parent.name)
    return named + workers


# -- the whole way


@pytest.mark.slow
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_an_emulated_cluster_answers_alike_and_takes_the_time_of_the_simulator(deployment, tmp_path, shaping):
    """Answers are those of free workers to the bit, the latency that of the simulator, and nothing remains."""
    setting = setting_of(deployment, tmp_path, shaping)
    images = random_inputs(setting.manifest, 1)
    with threads(deployment) as hosts, Session(deployment, hosts) as session:
        free = session.infer(images)
    with emulated_cluster(setting) as running:
        assert left_of(os.getpid())
        links = running.check_links()
        with open_session(setting, running, 10.0) as session:
            assert session.infer(images).tobytes() == free.tobytes()
            found = run_bench(setting, session, requests=8, warmup=1, links=links)
    assert left_of(os.getpid()) == []
    assert found.predicted.median == found.predicted.p95 == simulate(setting.plan, setting.cluster).latency_s > 0.1
    assert found.ratios()["median"] == pytest.approx(1, abs=0.15)
    assert found.late("steps")["timed"] == 8 * sum(isinstance(s, Compute) for p in setting.plan.programs for s in p)
    assert found.late("messages")["timed"] == 8 * len(list(setting.plan.messages()))
    data = json.loads(json.dumps(found.to_data()))["emulation"]
    assert data["shaping"] == shaping
    assert {(link["source"], link["destination"]) for link in data["links"]} == {(-1, 0), (0, 1)}
    for link in data["links"]:
        assert link["message_measured_s"] == pytest.approx(link["message_set_s"], rel=0.25)
        assert link["bandwidth_measured_bytes_per_s"] == pytest.approx(link["bandwidth_set_bytes_per_s"], rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_an_error_leaves_nothing_behind(deployment, tmp_path, shaping):
    """What fails while a cluster is emulated ends its workers and removes its files and namespaces."""
    seen = []
    with pytest.raises(ZeroDivisionError), emulated_cluster(setting_of(deployment, tmp_path, shaping)):
        seen.append(left_of(os.getpid()) and 1 / 0)
    assert seen == []
    assert left_of(os.getpid()) == []


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_NAMESPACES), reason=str(NO_NAMESPACES))
def test_two_devices_that_cannot_reach_each_other_are_named(deployment, tmp_path):
    """Where the client reaches both devices, but one has no way to the other, the error names both and the address."""
    setting = setting_of(deployment, tmp_path, "netns")
    with emulated_cluster(setting) as running:
        there = parse_address(running.hosts.address(0))[0]
        own = f"sepnas-{os.getpid()}-device1"
        subprocess.run(["ip", "-n", own, "route", "add", "unreachable", there], check=True)
        says = rf"device 1 cannot connect to its peers: device 0: nobody answers at {re.escape(there)}:\d+ \(.*host"
        with pytest.raises(PeerUnreachableError, match=says):
            open_session(setting, running, 5.0)


def is_starting(pid):
    """Its workers are there."""
    return sum(left.isdigit() for left in left_of(pid)) == 2


def is_running(pid):
    """Messages are on their way."""
    return any(any(path.read_bytes()) for base in ("/dev/shm", "/tmp") for path in clocks(base, pid))


def clocks(base, pid):
    return Path(base).glob(f"sepnas-{pid}-emulation-*/clock")


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize(
    ("number", "status", "moment"),
    [(signal.SIGTERM, 143, is_starting), (signal.SIGINT, 130, is_starting)]
    + [
        pytest.param(number, status, is_running, marks=pytest.mark.slow)
        for number, status in [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
    ],
)
def test_a_signal_leaves_nothing_behind(deployment, tmp_path, shaping, number, status, moment):
    """SIGTERM and Ctrl-C end an emulation, starting or running, with their exit codes and leave nothing of it."""
    cluster = cluster_of(client_link=SLOW).save(tmp_path / "cluster.yaml")
    command = ["bench", str(deployment), "--emulate", str(cluster), "--shaping", shaping, "--requests", "100000"]
    process = subprocess.Popen([sys.executable, "-m", "sepnas", *command], stdout=subprocess.PIPE, text=True)
    try:
        eventually(lambda: moment(process.pid))
    finally:
        process.send_signal(number)
        process.communicate(timeout=PROCESS_S)
    assert process.returncode == status
    assert left_of(process.pid) == []


@pytest.mark.slow
def test_the_table_names_the_emulated_cluster_and_its_shaping(deployment, tmp_path):
    """`bench --emulate` prints measured, predicted, their ratio, the links' check and who shaped them."""
    cluster = cluster_of().save(tmp_path / "cluster.yaml")
    arguments = ["bench", str(deployment), "--emulate", str(cluster), "--requests", "2", "--warmup", "0"]
    trace = tmp_path / "trace.json"
    more = ["--shaping", "process", "--check-links", "--trace", str(trace), "--jitter", "1ms"]
    result = CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for words in ("latency, median", "predicted", "ratio", "0 to 1", "in the processes (as requested)"):
        assert words in result.stdout
    assert trace.exists()


# -- the pace of a device


class OwnClock:
    """A clock that stands still but for those that sleep by it, and for a moment whenever it is read."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def monotonic_ns(self) -> int:
        self.now_ns += 10
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(1e9 * seconds)


@pytest.fixture
def clock(monkeypatch) -> OwnClock:
    found = OwnClock()
    monkeypatch.setattr("sepnas.emulation.pace.time", found)
    return found


def test_a_pace_makes_up_for_what_a_step_took_too_long(clock):
    """Steps end at the emulated device's times: what one woke up too late is taken from the next one."""
    pace = EmulatedPace([None, 0.02, 0.02], batch=1)
    pace.begin(1)
    pace.start(0)
    pace.arrived(start := clock.now_ns)
    ends_s = []
    for step in (1, 2):
        pace.start(step)
        clock.sleep(0.023 if step == 1 else 0.0)
        pace.finish()
        ends_s.append((clock.now_ns - start) / 1e9)
    assert ends_s == pytest.approx([0.023, 0.04], abs=1e-4)
    assert pace.lateness.to_data()["timed"] == 2


def test_a_step_that_takes_too_long_here_is_counted(clock):
    """A step that is slower than the emulated device is counted as late, by the difference."""
    pace = EmulatedPace([0.001], batch=2)
    pace.begin(4)
    pace.start(0)
    clock.sleep(0.03)
    pace.finish()
    late = pace.lateness.to_data()
    assert late["late"] == 1
    assert late["late_s"] == pytest.approx(0.028)


def test_steps_take_the_simulators_time(plan):
    """The seconds of a device's steps add up to what the simulator says that it is busy, exchanging too."""
    cluster = cluster_of()
    exchange = ExchangeCosts(message_s=1e-4, byte_s=1e-8, convert_s=1e-5, merge_s=2e-5, own_core=False)
    devices = tuple(device.model_copy(update={"exchange": exchange}) for device in cluster.devices)
    for described in (cluster, cluster.model_copy(update={"devices": devices})):
        for batch in (1, 5):
            busy_s = simulate(plan, described, batch).busy_s
            assert [sum(steps) for steps in step_seconds(plan, described, batch)] == pytest.approx(busy_s)
    assert busy_s > simulate(plan, cluster, batch).busy_s


def test_only_computing_varies_by_chance():
    """Segments of a device with jitter take a lognormal time of the right mean and deviation, other steps the same."""
    pace = EmulatedPace([2e-5, 2e-5], batch=1, varying={0}, jitter=0.3, punctual=False)
    times_s = {0: [], 1: []}
    for step in (0, 1) * 2000:
        pace.start(step)
        before_ns = pace.now_ns
        pace.finish()
        times_s[step].append((pace.now_ns - before_ns) / 1e9)
    assert np.mean(times_s[0][1:]) == pytest.approx(2e-5, rel=0.03)
    assert np.std(times_s[0][1:]) == pytest.approx(0.3 * 2e-5, rel=0.1)
    assert set(times_s[1]) == {2e-5}


# -- links in the processes

_POST = """
import sys
from sepnas.emulation.link_shaping import Shaper
from sepnas.spec.emulation import EmulatedLink, Emulation
from sepnas.spec.hosts import parse_address
path, rank = sys.argv[1], int(sys.argv[2])
link = EmulatedLink(peer=2, bandwidth_bytes_per_s=1e4, message_overhead_s=0.01, resources=(0,))
shaper = Shaper(
    Emulation(deployment_id="0" * 64, rank=rank, num_devices=3, clock=path, num_resources=1, links=(link,))
)
link = shaper.link(2)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    link.post(200)
for _ in range(5):
    link.depart()
print(*shaper.clock.ring(rank, 2)[:10:2])
"""


def test_two_senders_take_turns_on_one_medium(tmp_path):
    """Messages of two processes through one air are due one after the other: all together take the sum of them."""
    clock = tmp_path / "clock"
    SharedClock.create(clock, 3, 1)
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", _POST, str(clock), str(rank)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for sender in senders:
        assert sender.stdout.readline() == "ready\n"
    start_ns = time.monotonic_ns()
    due = sorted(int(word) for sender in senders for word in sender.communicate("\n", timeout=SOON_S)[0].split())
    assert np.diff(due).min() >= 0.03e9 - 1
    assert 10 * 0.03 <= (due[-1] - start_ns) / 1e9 < 2 * 10 * 0.03 + 10  # a busy machine may begin late


@pytest.fixture
def joined(tmp_path):
    """Makes two channels over a real socket with an emulated link between them, and collects what arrives."""
    opened = []

    def join(link, kernel=False):
        numbers = {"deployment_id": "0" * 64, "num_devices": 2, "clock": str(tmp_path / "clock"), "num_resources": 4}
        SharedClock.create(numbers["clock"], 2, 4)
        shaping = "netns" if kernel else "process"
        ends = [
            Emulation(rank=rank, links=(link.model_copy(update={"peer": 1 - rank}),), shaping=shaping, **numbers)
            for rank in (0, 1)
        ]
        sockets = socket.socketpair()
        sides = (Side.DIALER, Side.LISTENER)
        channels = [
            Channel(PlainPipe(s), Connection(side, {7: 100}), "x") for s, side in zip(sockets, sides, strict=True)
        ]
        deadline = time.monotonic() + SOON_S
        channels[0].send_now(Hello(deployment_id="0" * 64, rank=1, session="abcdef0123456789"), deadline)
        channels[1].next_event(deadline)
        channels[1].send_now(Welcome(rank=0), deadline)
        channels[0].next_event(deadline)
        arrived, done = [], threading.Event()
        for rank, channel in enumerate(channels):
            shaper = Shaper(ends[rank])
            opened.extend((channel, shaper))
            channel.link = shaper.link(1 - rank)
            channel.start(
                lambda event: arrived.append((event, time.monotonic())) if isinstance(event, Data) else None,
                lambda error: done.set(),
            )
        return channels, arrived, done

    yield join
    for each in opened:
        each.close()


def test_the_threads_at_both_ends_take_their_time(tmp_path):
    """A message is due when the simulator says, with the writer and the reader that it waits for: the same formula."""
    costs = ExchangeCosts(message_s=0.02, byte_s=1e-5)
    devices = tuple(device.model_copy(update={"exchange": costs}) for device in cluster_of().devices)
    cluster = cluster_of().model_copy(update={"devices": devices})
    plan = build_plan(named_architecture("resnext11_2x4d", 2, "all-to-all"))
    found = emulations(plan, cluster, "0" * 64, tmp_path / "clock")
    SharedClock.create(tmp_path / "clock", 2, found[0].num_resources)
    shaper, network, start_ns = Shaper(found[0], lambda: start_ns), Network(cluster), time.monotonic_ns()
    link = shaper.link(1)
    for _ in range(3):
        link.post(5000 + FRAME_HEADER_BYTES)
    for _ in range(3):
        link.depart()
    due_ns = SharedClock(tmp_path / "clock", 2, found[0].num_resources).ring(0, 1)[:6:2]
    wanted_s = [network.carry((0, 1), 0.0, 5000)[1] for _ in range(3)]
    assert [(each - start_ns) / 1e9 for each in due_ns] == pytest.approx(wanted_s, abs=1e-6)
    assert wanted_s[0] > 0.04 + 2 * 5000 * 1e-5
    shaper.close()


@pytest.fixture
def shapers(tmp_path):
    """Makes the client's ends of links from the client to devices 0 and 1."""
    opened = []

    def make(*links):
        SharedClock.create(tmp_path / "clock", 2, 4)
        numbers = {"deployment_id": "0" * 64, "num_devices": 2, "clock": str(tmp_path / "clock"), "num_resources": 4}
        opened.append(Shaper(Emulation(rank=CLIENT, links=links, **numbers), lambda: 10**9))
        return opened[0]

    yield make
    for each in opened:
        each.close()


def due_s(shaper, peer, count):
    """When the messages to a peer are due, in seconds after they were posted."""
    return [due_ns / 1e9 - 1 for due_ns in shaper.clock.ring(shaper.rank, peer)[: 2 * count : 2]]


@pytest.mark.parametrize(("buffered", "second_s"), [(True, 0.2), (False, 0.4)])
def test_a_port_does_not_wait_for_a_port_at_the_other_end(shapers, buffered, second_s):
    """Behind a switch a message that waits for its receiver's port lets the next one pass; on a radio it does not."""
    numbers = {"bandwidth_bytes_per_s": 1e3, "queue": 3, "buffered": buffered}
    busy, free = (EmulatedLink(peer=peer, resources=(peer,), **numbers) for peer in (0, 1))
    shaper = shapers(busy, free)
    shaper.clock.carry(busy, 10**9, 10**9, 200)  # somebody else's message, until 0.2 s
    links = [shaper.link(peer) for peer in (0, 1)]
    for link in links:
        link.post(100)
    for link in links:
        link.depart()
    assert due_s(shaper, 0, 1) == pytest.approx([0.3])
    assert due_s(shaper, 1, 1) == pytest.approx([second_s])


def test_who_is_gone_holds_nobody_up(shapers):
    """Messages of a connection that broke leave their queue, and later ones do not join it."""
    links = [EmulatedLink(peer=peer, bandwidth_bytes_per_s=1e3, queue=3) for peer in (0, 1)]
    shaper = shapers(*links)
    gone, link = shaper.link(0), shaper.link(1)
    gone.post(100)
    link.post(100)
    gone.abandon()
    gone.post(100)
    link.post(100)
    for _ in range(2):
        link.depart()
    assert due_s(shaper, 1, 2) == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("kernel", [False, True])
def test_jitter_keeps_the_order(joined, kernel):
    """Messages with random latencies arrive in the order in which they were sent, and none before its latency."""
    latency_s = 0.5  # all of them one after the other would take 20 s, which a busy machine does not need either
    link = EmulatedLink(peer=1, bandwidth_bytes_per_s=1e9, latency_s=latency_s, jitter_s=0.2)
    (sender, _), arrived, _ = joined(link, kernel)
    sent_s = time.monotonic()
    for number in range(1, 41):
        sender.send(Data(number, 7, bytes(100)))
    assert sender.flush(SOON_S)
    assert time.monotonic() - sent_s < 40 * latency_s, "latency does not hold up the sender"
    eventually(lambda: len(arrived) == 40)
    assert [event.request for event, _ in arrived] == list(range(1, 41))
    assert arrived[0][1] - sent_s >= latency_s
    assert arrived[-1][1] - sent_s < 40 * latency_s, "latencies pass side by side"


def test_what_is_under_way_arrives_before_the_end_does(joined):
    """A channel that is closed right after its last message still delivers it after its latency, and then ends."""
    link = EmulatedLink(peer=1, bandwidth_bytes_per_s=1e4, latency_s=0.1)
    (sender, _), arrived, done = joined(link)
    sent_s = time.monotonic()
    sender.send(Data(1, 7, bytes(100)))
    sender.close()
    assert done.wait(SOON_S)
    eventually(lambda: arrived)
    assert arrived[0][1] - sent_s >= 0.1 + 116 / 1e4


# -- what is chosen, and what is refused


def test_namespaces_are_for_ports_of_one_rate(plan, monkeypatch):
    """Links of several rates, and cables of their own between more than two, are left to the processes."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    monkeypatch.setattr("sepnas.emulation.namespaces._run", lambda *command: None)
    assert why_no_namespaces(plan, cluster_of()) is None
    three = build_plan(tiny_architecture([{"after": 0, "transfers": [transfer(1, 0), transfer(2, 0)]}]))
    faster = SLOW.model_copy(update={"between": ("d0", "d1"), "bandwidth_bytes_per_s": 1e6})
    several = Cluster(devices=cluster_of(devices=3).devices, links=(SLOW, faster))
    assert "differ in bandwidth" in why_no_namespaces(three, several)
    assert "cable of its own" in why_no_namespaces(three, cluster_of(SLOW.model_copy(update={"medium": "own"}), 3))
    monkeypatch.setattr("shutil.which", lambda tool: None)
    assert "ip and tc" in why_no_namespaces(plan, cluster_of())


def test_without_root_the_processes_shape_and_say_why(deployment, tmp_path, monkeypatch):
    """Without root `auto` takes the processes and says why, and `netns` is refused with what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    setting = setting_of(deployment, tmp_path, "auto")
    assert (setting.shaping, setting.why) == ("process", "no network namespaces: they need root")
    with pytest.raises(SpecError, match=r"\(netns\) is not possible: they need root; use process"):
        setting_of(deployment, tmp_path, "netns")


@pytest.mark.skipif(bool(NO_NAMESPACES), reason=str(NO_NAMESPACES))
def test_namespaces_of_dead_runs_are_removed():
    """What a killed run left is removed by the next one; what a living process has stays."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = {pid: f"sepnas-{pid}-device0" for pid in (gone.pid, os.getpid())}
    for name in names.values():
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        remove_leftovers()
        assert left_of(gone.pid) == []
        assert left_of(os.getpid()) == [f"/run/netns/{names[os.getpid()]}"]
    finally:
        subprocess.run(["ip", "netns", "del", names[os.getpid()]], check=True)


def test_a_cluster_that_does_not_fit_is_refused(deployment, tmp_path):
    """Too few devices, or no link where a message goes, are named before anything is started."""
    with pytest.raises(PlanError, match="needs 2 devices, but cluster 'cluster' has 1"):
        setting_of(deployment, tmp_path, "process", cluster_of(devices=1))
    with pytest.raises(PlanError, match="no link between d0 and d1"):
        setting_of(deployment, tmp_path, "process", Cluster(devices=cluster_of().devices))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--emulate", "c.yaml", "--devices", "h.yaml"], "--devices"),
        (["--emulate", "c.yaml", "--cluster", "h.yaml"], "--cluster"),
        (["--check-links"], "goes with --emulate only"),
        (["--jitter", "2ms"], "goes with --emulate only"),
        (["--shaping", "netns"], "goes with --emulate only"),
    ],
)
def test_contradictory_options_are_refused(options, says):
    """Options of real and of emulated devices exclude each other."""
    result = CliRunner().invoke(app, ["bench", "deployment", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.fixture
def written(deployment, plan, tmp_path):
    """Device 0's emulation file, with its clock."""
    found = emulations(plan, cluster_of(), load_manifest(deployment).deployment_id, tmp_path / "clock")
    SharedClock.create(tmp_path / "clock", 2, found[0].num_resources)
    assert set(found) == {CLIENT, 0, 1}
    assert found[CLIENT].links == (), "a client without a link costs nothing"
    return found[0].save(tmp_path / "device0.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"deployment_id": "1" * 64}, "field `deployment_id`: is 1111.*another emulation"),
        ({"rank": 1, "links": []}, "field `rank`: is 1, but .*device0 has 0"),
        ({"num_devices": 3}, "field `num_devices`: is 3"),
        ({"steps_s": [0.1]}, "field `steps_s`: has 1 steps, but the program"),
        ({"num_resources": 9}, "clock of this emulation has .* bytes, the file has"),
        ({"clock": "/nowhere/clock"}, "/nowhere/clock: the clock of the emulation cannot be opened"),
        ({"batch": 0}, "field `batch`: must be greater than 0"),
        ({"steps_s": [-1.0]}, "field `steps_s.0`: must be at least 0"),
        ({"links": [{"peer": 1, "bandwidth_bytes_per_s": 0.0}]}, "bandwidth_bytes_per_s`: must be greater than 0"),
        ({"links": [{"peer": 1, "bandwidth_bytes_per_s": float("inf")}]}, "bandwidth_bytes_per_s`: "),
        ({"links": [{"peer": 0, "bandwidth_bytes_per_s": 1.0}]}, "`links.0.peer` must be another rank"),
        ({"links": [{"peer": 1, "bandwidth_bytes_per_s": 1.0, "resources": [99]}]}, "resources that must lie below"),
    ],
)
def test_an_emulation_of_something_else_is_refused(deployment, written, change, says):
    """A worker refuses an emulation of another deployment or device, and numbers that no cluster has, by name."""
    written.write_text(json.dumps(json.loads(written.read_text()) | change))
    with pytest.raises(SpecError, match=says):
        load_emulated(written, load_shard(deployment / "device0"))


def test_a_file_that_was_cut_off_is_refused(deployment, written, tmp_path):
    """Half an emulation, or half a clock, is no emulation."""
    (tmp_path / "clock").write_bytes((tmp_path / "clock").read_bytes()[:1000])
    with pytest.raises(SpecError, match="the file has 1000"):
        load_emulated(written, load_shard(deployment / "device0"))
    written.write_text(written.read_text()[:100])
    with pytest.raises(SpecError, match=r"device0\.json: not valid JSON"):
        load_emulated(written, load_shard(deployment / "device0"))


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """An `ip` that the system refuses everything, as in a container."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("ip", "tc"):
        (tmp_path / name).write_text("#!/bin/sh\necho not today >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_system_that_refuses_namespaces_is_quoted(deployment, tmp_path, refusing):
    """Root without the right to make namespaces gets the processes, and the refused command as the reason."""
    setting = setting_of(deployment, tmp_path, "auto")
    assert setting.shaping == "process"
    assert "`ip netns add sepnas-" in setting.why
    assert setting.why.endswith("not today")


def test_a_namespace_that_cannot_be_made_is_an_error_with_the_command(deployment, tmp_path, refusing):
    """When the system refuses a command in the middle the error quotes it, and nothing remains."""
    setting = replace(setting_of(deployment, tmp_path, "process"), shaping="netns")
    with pytest.raises(ExchangeError, match=r"`ip netns add .*`: not today"), emulated_cluster(setting):
        pass
    assert left_of(os.getpid()) == []
