"""The runtime: real worker processes, real sockets, and what goes wrong on them."""

import os
import queue
import re
import signal
import socket
import threading
import time
import warnings
from collections import deque
from contextlib import ExitStack, contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import sepnas
from sepnas.deploy.certificates import Credential, issue, make_authority
from sepnas.deployment.manifest import certificate_name
from sepnas.deployment.verify import load_manifest
from sepnas.errors import (
    DataError,
    DeadlineError,
    HandshakeError,
    ListenError,
    LocalProtocolError,
    PeerLostError,
    PeerUnreachableError,
    RemoteError,
    RemoteProtocolError,
    SpecError,
)
from sepnas.runtime.client.bench import bench, random_batch
from sepnas.runtime.client.images import load_images
from sepnas.runtime.client.questions import ask_devices, measure_clock
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import Trace
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.protocol.events import PROTOCOL_VERSION, Hello, Ping
from sepnas.runtime.transport.admission import MAX_GREETINGS
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.pipes import PlainPipe
from sepnas.runtime.worker.mailbox import MAX_REQUESTS_AHEAD, Mailbox
from sepnas.runtime.worker.server import Worker
from sepnas.separable.build import build_plan
from sepnas.spec.hosts import Hosts, parse_address
from sepnas.train.images import ImageData, Split
from tests.helpers_runtime import (
    FROZEN_S,
    SOON_S,
    WorkerProcess,
    export_tiny,
    freeze,
    lively_network,
    run_in_threads,
    threads,
    tiny_architecture,
    transfer,
    whole_logits,
    worker_processes,
)
from tests.strategies import architectures

MEAN_POINTS = [
    {"after": 0, "transfers": [transfer(0, 1, "int8", 1, 0.5), transfer(1, 0, "fp16"), transfer(2, 0, "int4")]},
    {"after": 1, "transfers": [transfer(0, 2, "int4"), transfer(1, 2, "fp32", 0, 0.3), transfer(2, 1, "fp16")]},
    {"after": 2, "transfers": [transfer(1, 0, "int8", 1), transfer(2, 0, "fp16", 1, 0.5), transfer(0, 2, "int8", 1)]},
    {"after": 3, "transfers": [transfer(2, 0, "int8")]},
    {"after": 4, "transfers": [transfer(1, 0, "int4", 1), transfer(2, 0, "int8", 1)]},
]
WEIGHTED_POINTS = [
    {"after": 0, "merge": "weighted", "transfers": [transfer(1, 0, "fp16", 1), transfer(0, 1, "int8")]},
    {"after": 1, "merge": "weighted", "transfers": [transfer(1, 0, "int8", 0, 0.5), transfer(0, 1, "fp32")]},
    {"after": 3, "transfers": [transfer(1, 0, "int4"), transfer(0, 1, "int4")]},
    {"after": 4, "merge": "concat", "transfers": [transfer(1, 0, "int8", 1, 0.5), transfer(0, 1, "fp16", 1)]},
    {"after": 5, "merge": "concat", "transfers": [transfer(1, 0, "fp32"), transfer(0, 1, "int8")]},
]


class Case:
    """A network, its deployment, and running workers."""

    def __init__(self, network, folder, workers, hosts):
        self.network, self.folder, self.workers, self.hosts = network, folder, workers, hosts
        self.plan = build_plan(network.architecture)

    def open(self, **options):
        """A session; a worker that a test has ended is started again."""
        for rank, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.workers[rank] = WorkerProcess(self.folder / f"device{rank}")
                addresses = [self.hosts.address(other) for other in range(len(self.workers))]
                addresses[rank] = self.workers[rank].address()
                self.hosts = Hosts.on(addresses)
        return Session(self.folder, self.hosts, **options)

    def images(self, size=3, seed=1):
        return np.random.default_rng(seed).integers(0, 256, (size, *load_manifest(self.folder).image.dims), np.uint8)

    def batch(self, size=3, seed=1):
        return random_batch(load_manifest(self.folder), size, seed)


@contextmanager
def running(folder, points, readout, devices):
    network = lively_network(tiny_architecture(points, readout, devices))
    export_tiny(network, folder)
    with worker_processes(folder, devices) as (workers, hosts):
        yield Case(network, folder, workers, hosts)


@pytest.fixture(scope="module")
def mean_case(tmp_path_factory):
    """Three devices: mean merges, both lags, all wire formats, one device reads out."""
    with running(tmp_path_factory.mktemp("mean") / "deployment", MEAN_POINTS, "device", 3) as case:
        yield case


@pytest.fixture(scope="module")
def weighted_case(tmp_path_factory):
    """Two devices: learned merges of both kinds, both lags, the answer is the mean of all logits."""
    with running(tmp_path_factory.mktemp("weighted") / "deployment", WEIGHTED_POINTS, "mean", 2) as case:
        yield case


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two devices, two messages, no workers: for what is about connections and not about numbers."""
    folder = tmp_path_factory.mktemp("tiny") / "deployment"
    points = [{"after": 0, "transfers": [transfer(1, 0), transfer(0, 1)]}, {"after": 2, "transfers": [transfer(1, 0)]}]
    export_tiny(lively_network(tiny_architecture(points, devices=2, depth=11)), folder)
    return folder


# -- the same numbers, the same bytes


@pytest.mark.parametrize("case_name", ["mean_case", pytest.param("weighted_case", marks=pytest.mark.slow)])
def test_the_devices_answer_what_the_whole_network_answers(case_name, request):
    """Through real processes the logits are those of the whole network, for any batch size."""
    case = request.getfixturevalue(case_name)
    with case.open() as session:
        for size in (1, 3, 8):
            x_bchw = case.batch(size, seed=size)
            np.testing.assert_allclose(session.infer(x_bchw), whole_logits(case.network, x_bchw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case_name", ["mean_case", "weighted_case"])
def test_devices_normalise_images_as_training_does(case_name, request):
    """Images sent as bytes are answered as the values that training computes from them, bit for bit."""
    case = request.getfixturevalue(case_name)
    image = load_manifest(case.folder).image
    with case.open() as session:
        for size in (1, 5):
            images = case.images(size)
            data = ImageData("", (), *[Split(torch.empty(0), torch.empty(0))] * 3, image.mean, image.std)
            x_bchw = data.normalise(torch.from_numpy(images)).numpy()
            answer = session.infer(images)
            np.testing.assert_array_equal(answer, session.infer(x_bchw))
            np.testing.assert_allclose(answer, whole_logits(case.network, x_bchw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("case_name", ["mean_case", "weighted_case"])
def test_predicted_bytes_are_counted_bytes(case_name, normalised, request):
    """On each link the sockets count what the plan says, payload for payload and header for header, at both ends.

    Images come as bytes; where the user has normalised them, in fp32.
    """
    case = request.getfixturevalue(case_name)
    with case.open() as session:
        sizes = (1, 4, 2)
        for size in sizes:
            session.infer(case.batch(size) if normalised else case.images(size))
        counters = session.counters()
    assert counters.requests == 3
    assert counters.payload_bytes == sum(case.plan.payload_bytes(size) for size in sizes)
    assert counters.wire_bytes == sum(case.plan.wire_bytes(size) for size in sizes)
    assert counters.raw_bytes > counters.wire_bytes
    for link in counters.links:
        messages = [message.sent_as(normalised) for message in case.plan.messages()]
        mine = [m for m in messages if (m.source, m.destination) == (link.source, link.destination)]
        assert link.sent.messages == 3 * len(mine)
        assert link.sent.payload_bytes == sum(m.payload_bytes(size) for m in mine for size in sizes)
        assert link.sent.frame_bytes == sum(m.wire_bytes(size) for m in mine for size in sizes)
        assert (link.received.payload_bytes, link.received.frame_bytes) == (
            link.sent.payload_bytes,
            link.sent.frame_bytes,
        )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(architectures(), st.integers(1, 3))
def test_any_plan_computes_what_the_network_computes(architecture, batch):
    """For any architecture the programs, run by the executor, give the whole network's logits and the plan's bytes."""
    network = lively_network(architecture)
    size = architecture.image_size
    shape = (batch, architecture.in_channels, size, size)
    x_bchw = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    payload, sent_bytes = run_in_threads(network, x_bchw)
    logits = np.frombuffer(payload, np.float32).reshape(batch, -1)
    np.testing.assert_allclose(logits, whole_logits(network, x_bchw), rtol=1e-5, atol=1e-6)
    assert sent_bytes == build_plan(architecture).payload_bytes(batch)


def test_a_session_classifies_images(mean_case):
    """uint8 images are normalised by the manifest, and the answer is class names."""
    images = np.random.default_rng(3).integers(0, 256, (4, 1, 8, 8), np.uint8)
    with mean_case.open() as session:
        names = session.classify(images)
        by_hand = session.infer(((images / np.float32(255) - np.float32(0.25)) / np.float32(0.5)).astype(np.float32))
    assert names == [f"class {index}" for index in by_hand.argmax(axis=1)]


def test_a_trace_says_when_each_device_did_what(mean_case, tmp_path):
    """A trace holds every step of each device, in order, within the request on the client's clock; it round-trips."""
    with mean_case.open() as session:
        for _ in range(3):
            session.infer(mean_case.batch())
        trace = session.trace(last=2)
    assert [record.request for record in trace.requests] == [2, 3]
    for record in trace.requests:
        assert 0 < record.sent_s < record.answered_s
        assert {device.rank: len(device.steps) for device in record.devices} == {
            rank: len(program) for rank, program in enumerate(mean_case.plan.programs) if program
        }
        for device in record.devices:
            moments = [moment for step in device.steps for moment in (step.start_s, step.end_s)]
            assert moments == sorted(moments)
            slack = device.uncertainty_s + 1e-3
            assert record.sent_s - slack <= moments[0]
            assert all(step.arrived_s is not None for step in device.steps if step.step == "recv")
        reader = next(d for d in record.devices if d.rank == mean_case.plan.answering[0])
        assert reader.steps[-1].start_s <= record.answered_s + reader.uncertainty_s
    path = trace.save(tmp_path / "trace.json")
    assert Trace.load(path) == trace


def test_a_bench_measures_latency_and_bytes(mean_case):
    """A bench counts for one request what the plan predicts, and its latencies are in order."""
    with mean_case.open() as session:
        result = bench(session, mean_case.batch(2), requests=10, warmup=2)
        with pytest.raises(DataError, match="`requests` must be at least 1"):
            bench(session, mean_case.batch(2), requests=0)
    assert result.payload_bytes_per_request == result.payload_bytes_predicted == mean_case.plan.payload_bytes(2)
    assert result.frame_bytes_per_request == mean_case.plan.wire_bytes(2)
    assert 0 < result.latency_min_s <= result.latency_median_s <= result.latency_p99_s
    assert result.to_data()["counters"]["payload_bytes"] == 12 * mean_case.plan.payload_bytes(2)


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 1, 8, 9), np.float32), np.zeros((1, 1, 8, 8)), np.zeros((0, 1, 8, 8), np.float32), np.uint8(3)],
)
def test_a_batch_of_another_shape_or_type_is_refused(mean_case, batch):
    """What the network cannot read is a DataError that says what it reads, and the session goes on."""
    with mean_case.open() as session:
        with pytest.raises(DataError, match="a batch must"):
            session.infer(batch)
        assert session.infer(mean_case.batch(1)).shape == (1, 5)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_that_is_none_is_refused(mean_case, timeout_s):
    """A deadline is a number of seconds within a day, for a session and for a request."""
    says = re.escape(f"`timeout_s` must be more than 0 and at most 86400 seconds, got {timeout_s!r}")
    with pytest.raises(SpecError, match=says):
        mean_case.open(timeout_s=timeout_s)
    with mean_case.open() as session:
        with pytest.raises(SpecError, match=says):
            session.infer(mean_case.batch(1), timeout_s=timeout_s)
        assert session.infer(mean_case.batch(1)).shape == (1, 5)


def test_an_address_that_is_missing_is_named_with_its_file(tiny, tmp_path):
    """A hosts file that lacks a device that is needed is named, before anyone is called."""
    path = tmp_path / "mine.yaml"
    path.write_text("devices: [{rank: 1, address: '127.0.0.1:1'}]")
    with pytest.raises(SpecError, match=rf"{re.escape(str(path))}: no address for rank 0; `devices` lists the ranks 1"):
        Session(tiny, path)


def test_a_loopback_address_among_others_is_warned_of(tiny):
    """Devices that dial each other there would meet themselves; where all are on one machine there is no warning."""
    with (
        pytest.warns(UserWarning, match=r"device 0's address 127\.0\.0\.1:1 is reached from its own machine only"),
        pytest.raises(PeerUnreachableError),
    ):
        Session(tiny, Hosts.on(["127.0.0.1:1", "nowhere.invalid:5000"]))
    with warnings.catch_warnings(action="error"), pytest.raises(PeerUnreachableError):
        Session(tiny, Hosts.on(["127.0.0.1:1", "[::1]:1"]))


def test_a_closed_session_says_so(mean_case):
    """After its block a session refuses work instead of waiting."""
    with mean_case.open() as session:
        pass
    with pytest.raises(LocalProtocolError, match="the session is closed"):
        session.infer(mean_case.batch())


# -- who is there, and who may talk


def test_a_second_client_is_refused_and_the_first_goes_on(mean_case):
    """While one client is served a second one is told that the device is busy, and with whom where it is the same
    process, as when a notebook's cell is run again."""
    with mean_case.open() as session:
        with pytest.raises(HandshakeError, match=r"device 0 at .*refused \(busy\).* serves another client") as caught:
            mean_case.open()
        assert "this process itself has a session with the deployment open: close that one first" in str(caught.value)
        assert session.infer(mean_case.batch(1)).shape == (1, 5)


def test_a_port_in_use_is_named(mean_case):
    """A worker on a taken port raises ListenError with the address and what to do."""
    host, port = parse_address(mean_case.hosts.address(0))
    with pytest.raises(ListenError, match=rf"cannot listen on {host}:{port}: port {port} is in use; .*--listen"):
        Worker(mean_case.folder / "device0", host, port)


def test_an_absent_worker_is_named(tiny):
    """When nobody listens the error names rank, address and the command to start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PeerUnreachableError, match=rf"device 0: nobody answers at {address} .*sepnas worker .*device0"):
        Session(tiny, Hosts.on([address, "127.0.0.1:1"]))
    with (
        pytest.warns(UserWarning, match="is reached from its own machine only"),
        pytest.raises(PeerUnreachableError, match=r"device 0: host 'nowhere\.invalid' is not known"),
    ):
        Session(tiny, Hosts.on(["nowhere.invalid:5000", "127.0.0.1:1"]))


def test_one_absent_worker_of_several_leaves_the_others_ready(tiny):
    """Failing to open a session leaves no half-open session behind on the devices that were there."""
    with threads(tiny) as hosts:
        with pytest.raises(PeerUnreachableError, match="device 1"):
            Session(tiny, Hosts.on([hosts.address(0), "127.0.0.1:1"]))
        with Session(tiny, hosts) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_swapped_addresses_are_noticed(tiny):
    """A device at another device's address is refused by its certificate."""
    with threads(tiny) as hosts:
        says = f"another device answers at {hosts.address(1)} (its certificate is not device 0's); correct its address"
        with pytest.raises(HandshakeError, match=re.escape(says)):
            Session(tiny, Hosts.on([hosts.address(1), hosts.address(0)]))


def test_another_version_or_deployment_or_rank_is_refused(tiny):
    """A Hello of another protocol version, deployment or rank is answered with the reason."""
    manifest = load_manifest(tiny)
    identity = Identity(tiny / "client/tls", -1, manifest.deployment_id)
    good = Hello(deployment_id=manifest.deployment_id, rank=-1, session="s")
    wrong = {
        rf"refused \(version\): speaks protocol version {PROTOCOL_VERSION + 1}": {"protocol": PROTOCOL_VERSION + 1},
        rf"refused \(version\): speaks protocol version {PROTOCOL_VERSION - 1}": {"protocol": PROTOCOL_VERSION - 1},
        r"refused \(deployment\): belongs to deployment eeee": {"deployment_id": "e" * 64},
        r"refused \(certificate\): the certificate is not that of device 1": {"rank": 1},
        r"refused \(purpose\): comes for 'tea'; allowed are session, and status for the client": {"purpose": "tea"},
    }
    with threads(tiny) as hosts:
        for says, change in wrong.items():
            with pytest.raises(HandshakeError, match=says):
                dial(0, hosts.address(0), good.model_copy(update=change), identity, {}, time.monotonic() + SOON_S)


@pytest.mark.parametrize("fault", ["foreign", "expired", "early"])
@pytest.mark.parametrize("who", ["client", "device"])
def test_a_foreign_or_expired_certificate_is_refused(tiny, tmp_path, monkeypatch, fault, who):
    """Whoever shows a certificate of another authority, or one that has expired or that begins later, is refused by the
    other end; whichever end tells of a time, it names the clocks."""
    manifest = load_manifest(tiny)
    mine = tiny / ("client/tls" if who == "client" else "device0/tls")
    authority = make_authority(manifest.deployment_id)
    if fault != "foreign":
        key, cert = (tiny / "authority" / name for name in ("key.pem", "ca.pem"))
        authority = Credential(
            load_pem_private_key(key.read_bytes(), None), load_pem_x509_certificate(cert.read_bytes())
        )
    rank = -1 if who == "client" else 0
    name = certificate_name(rank, manifest.deployment_id)
    if fault == "early":
        monkeypatch.setattr("sepnas.deploy.certificates.CLOCK_SKEW_DAYS", -1)
    bad = issue(authority, name, validity_days=-1 if fault == "expired" else 2)
    (tmp_path / "ca.pem").write_bytes((mine / "ca.pem").read_bytes())
    (tmp_path / "cert.pem").write_bytes(bad.certificate_pem())
    (tmp_path / "key.pem").write_bytes(bad.key_pem())
    monkeypatch.setattr(Identity, "_check", lambda self, folder: None)
    spoilt = Identity(tmp_path, rank, manifest.deployment_id)
    says = {
        ("client", "foreign"): "refuses our certificate: .*another",
        ("client", "expired"): "refuses our certificate: the certificate has expired by the other machine's clock",
        ("client", "early"): "refuses our certificate: .*is the other machine's clock right",
        ("device", "foreign"): "no TLS connection: .*another deployment",
        ("device", "expired"): "no TLS connection: certificate has expired; this machine's clock says",
        ("device", "early"): "no TLS connection: certificate is not yet valid; this machine's clock says",
    }[who, fault]
    place = "transport.live_identity.LiveIdentity" if who == "client" else "worker.server._identity"
    monkeypatch.setattr(f"sepnas.runtime.{place}", lambda *arguments: spoilt)
    with threads(tiny) as hosts, pytest.raises(HandshakeError, match=rf"device 0 at .*: {says}"):
        Session(tiny, hosts, timeout_s=SOON_S)


def test_plain_and_tls_do_not_mix(tiny):
    """A plain client at a TLS worker, and the other way round, get a HandshakeError that mentions --insecure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with threads(tiny) as hosts, pytest.raises(HandshakeError, match="--insecure"):
            Session(tiny, hosts, insecure=True, timeout_s=SOON_S)
        with threads(tiny, insecure=True) as hosts, pytest.raises(HandshakeError, match="TLS"):
            Session(tiny, hosts, timeout_s=SOON_S)


def test_insecure_is_for_one_machine(tiny):
    """Plain TCP works on loopback, warns, and is refused elsewhere on both sides."""
    with (
        threads(tiny, insecure=True) as hosts,
        pytest.warns(UserWarning, match="plain TCP"),
        Session(tiny, hosts, insecure=True) as session,
    ):
        assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
    with pytest.raises(SpecError, match=r"plain TCP is allowed on 127\.0\.0\.1"):
        Worker(tiny / "device0", "0.0.0.0", 0, insecure=True)
    with pytest.raises(SpecError, match=r"got 10\.0\.0\.1"):
        Session(tiny, Hosts.on(["10.0.0.1:5000", "10.0.0.2:5000"]), insecure=True)


def test_who_connects_and_says_nothing_is_dropped(tiny):
    """A silent connection is closed after the handshake's deadline and keeps nobody out meanwhile."""
    with (
        threads(tiny, handshake_s=0.5) as hosts,
        socket.create_connection(parse_address(hosts.address(0))) as silent,
    ):
        with Session(tiny, hosts) as session:
            session.infer(random_batch(session.manifest, 1))
        silent.settimeout(5)
        assert silent.recv(1) == b""


def test_many_silent_connections_keep_nobody_out(tiny):
    """A worker whose places for greetings are all taken by silent connections closes the oldest and serves a client."""
    with threads(tiny, handshake_s=100) as hosts, ExitStack() as stack:
        address = parse_address(hosts.address(0))
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(MAX_GREETINGS + 1)]
        with Session(tiny, hosts) as session:
            session.infer(random_batch(session.manifest, 1))
        silent[0].settimeout(5)
        assert silent[0].recv(1) == b""


def test_noise_at_the_door_harms_nobody(tiny):
    """Random bytes at a worker's port are dropped, and the worker serves the next client."""
    with threads(tiny) as hosts:
        for noise in (os.urandom(3000), b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
            with socket.create_connection(parse_address(hosts.address(0))) as sock:
                sock.sendall(noise)
        with Session(tiny, hosts) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


# -- what breaks in the middle


def test_a_channel_to_who_has_left_ends_once_and_without_a_fuss(monkeypatch):
    """A channel whose peer is gone before it starts says once that it was lost; no thread of it fails."""
    fuss, ends = [], queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", fuss.append)
    for _ in range(50):
        mine, gone = socket.socketpair()
        gone.close()
        channel = Channel(PlainPipe(mine), Connection(Side.DIALER), "device 1")
        channel.start(lambda event: None, ends.put)
        assert isinstance(ends.get(timeout=SOON_S), PeerLostError)
        channel.close()
    assert ends.empty()
    assert not fuss


def test_an_answer_that_comes_too_late_is_not_the_next_one(tiny):
    """Traces and clocks are those that were asked for, whatever still arrives of earlier questions."""
    with threads(tiny) as hosts, Session(tiny, hosts) as session:
        session.infer(random_batch(session.manifest, 1))
        with pytest.raises(DeadlineError, match="answering for the trace"):
            deque(ask_devices(session._connections, "trace", 0, deadline=0) for _ in count())  # until an answer is late
        assert [device.rank for device in session.trace(last=1).requests[0].devices] == [0, 1]
        session._connections.send(1, Ping(sent_ns=time.monotonic_ns() + 10**15))
        assert abs(measure_clock(session._connections, 0, time.monotonic() + SOON_S).offset_ns) < 10**12


class Flaky(TorchEngine):
    """Fails, or waits until it may go on, when the first value of the input says so."""

    may_go_on = threading.Event()

    def run(self, segment, inputs):
        if inputs[0].flat[0] == 666:
            raise ValueError("out of luck")
        if inputs[0].flat[0] == 777:
            assert self.may_go_on.wait(SOON_S)
        return super().run(segment, inputs)


def test_a_failing_computation_is_reported_with_device_and_step(tiny):
    """A device that fails while it computes is a RemoteError with device, step and segment; the session goes on."""
    with threads(tiny, engine=Flaky) as hosts, Session(tiny, hosts) as session:
        batch = random_batch(session.manifest, 1)
        bad = batch.copy()
        bad.flat[0] = 666
        with pytest.raises(RemoteError, match=r"device \d: step 1 of \d+, computing segment .* ValueError: out of"):
            session.infer(bad)
        answer = session.infer(batch)
        np.testing.assert_array_equal(session.infer(batch), answer)


def test_what_comes_too_late_is_dropped(tiny):
    """After a deadline the next answers are those of their own requests, whatever still arrives of the old one."""
    with threads(tiny, engine=Flaky) as hosts, Session(tiny, hosts) as session:
        batch = random_batch(session.manifest, 1)
        answer = session.infer(batch)
        slow = batch.copy()
        slow.flat[0] = 777
        Flaky.may_go_on.clear()
        with pytest.raises(DeadlineError):
            session.infer(slow, timeout_s=0.2)
        Flaky.may_go_on.set()
        np.testing.assert_array_equal(session.infer(batch), answer)
        np.testing.assert_array_equal(session.infer(batch), answer)


def test_a_frozen_worker_is_a_deadline_and_not_a_hang(mean_case):
    """When a device freezes, the client gets a DeadlineError at its deadline that names the device; then it goes on."""
    with mean_case.open() as session:
        expected = session.infer(mean_case.batch(1))
        frozen = mean_case.workers[1].process
        freeze(frozen.pid)
        try:
            for timeout_s in (FROZEN_S, 10 * FROZEN_S, 50 * FROZEN_S):  # a busy device may report after its deadline
                start = time.monotonic()
                with pytest.raises(DeadlineError, match="device") as caught:
                    session.infer(mean_case.batch(1), timeout_s=timeout_s)
                assert 0.9 * timeout_s < time.monotonic() - start < timeout_s + SOON_S / 2
                if "no answer in time" not in str(caught.value):
                    break
            assert re.search(r"device \d: step .*waiting for message \d+ from device 1", str(caught.value))
            with pytest.raises(DeadlineError):
                Session(mean_case.folder, Hosts.on([mean_case.hosts.address(1)] * 1 + ["127.0.0.1:1"]), timeout_s=0.5)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        np.testing.assert_array_equal(session.infer(mean_case.batch(1)), expected)


def infer_often(session, batch):
    for _ in range(1000):
        session.infer(batch)


def test_a_killed_worker_is_noticed_at_once(weighted_case):
    """When a device dies the wait ends at once with a PeerLostError that names it; then a new worker can serve."""
    with weighted_case.open(timeout_s=SOON_S) as session:
        expected = session.infer(weighted_case.batch(1))
        weighted_case.workers[1].process.kill()
        start = time.monotonic()
        with pytest.raises(PeerLostError, match="device 1"):
            infer_often(session, weighted_case.batch(1))
        assert time.monotonic() - start < SOON_S / 2
        with pytest.raises(PeerLostError, match="device 1"):
            session.infer(weighted_case.batch(1))
    weighted_case.workers[1].process.wait(SOON_S)
    with weighted_case.open() as session:
        np.testing.assert_array_equal(session.infer(weighted_case.batch(1)), expected)


def test_a_worker_that_is_stopped_ends_cleanly_in_the_middle_of_a_session(weighted_case):
    """SIGTERM during a session: the worker exits with status 0, and the client gets a PeerLostError."""
    with weighted_case.open() as session:
        session.infer(weighted_case.batch(1))
        assert weighted_case.workers[0].end() == 0
        with pytest.raises(PeerLostError, match="device 0"):
            session.infer(weighted_case.batch(1))


def test_a_client_that_dies_leaves_the_workers_ready(tiny):
    """When the client vanishes without a word the workers wait for the next one."""
    with threads(tiny) as hosts:
        first = Session(tiny, hosts)
        for channel in first._connections.channels.values():
            channel.abort()
        with Session(tiny, hosts) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_the_mailbox_bounds_what_peers_run_ahead():
    """A message that came before, or of more requests than may wait, is a protocol error; an old one is dropped."""
    box = Mailbox()
    box.put(1, 3, b"x")
    with pytest.raises(RemoteProtocolError, match="came twice"):
        box.put(1, 3, b"x")
    for request in range(1000, 999 + MAX_REQUESTS_AHEAD):
        box.put(request, 3, b"x")
    with pytest.raises(RemoteProtocolError, match="64 requests from 1 on wait"):
        box.put(2, 3, b"x")
    box.begin(2)
    box.put(2, 3, b"x")
    box.put(1, 4, b"old")
    with pytest.raises(DeadlineError, match="message 4 of request 1"):
        box.take(1, 4, time.monotonic() + SOON_S)


# -- images


def test_images_are_read_as_the_network_wants_them(tiny, tmp_path):
    """Colour files become gray where the network reads gray, and nothing else changes."""
    manifest = load_manifest(tiny)
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(tmp_path / "colour.png")
    images = load_images([tmp_path / "gray.png", tmp_path / "colour.png"], manifest)
    assert images.shape == (2, 1, 8, 8)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize("size", [(20, 12), (12, 20), (4, 5), (8, 8)])
def test_images_of_another_size_are_cropped_or_stretched(tiny, tmp_path, size):
    """`crop` sees the square in the middle and nothing beside it, `stretch` sees everything; one that fits is kept."""
    manifest, path = load_manifest(tiny), tmp_path / "image.png"
    pixels = np.zeros(size[::-1], np.uint8)
    shorter = min(size)
    top, left = ((side - shorter) // 2 for side in pixels.shape)
    pixels[top : top + shorter, left : left + shorter] = 200
    Image.fromarray(pixels).save(path)
    cropped, stretched = (load_images([path], manifest, resize) for resize in ("crop", "stretch"))
    assert cropped.shape == stretched.shape == (1, 1, 8, 8)
    assert (cropped == 200).all()
    assert (stretched == 200).all() == (size[0] == size[1])
    assert stretched.mean() == pytest.approx(pixels.mean(), abs=2)


def test_what_is_no_image_is_named(tiny, tmp_path):
    """A missing file, a text file, a cut file, another size and deeper channels are DataErrors that name the file."""
    manifest = load_manifest(tiny)
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = tmp_path / "whole.png"
    Image.effect_noise((8, 8), 50).save(whole)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("F", (8, 8)).save(tmp_path / "float.tiff")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-30])
    for name, says in {
        "none.png": "no such file",
        "wide.png": "is 9x8 pixels, the network reads 8x8; `resize='crop'`",
        "deep.png": r"has more than 8 bits a channel \(mode I;16\); save it with 8",
        "float.tiff": r"has more than 8 bits a channel \(mode F\)",
        "text.png": "is not an image",
        "cut.png": "cannot be read as an image",
    }.items():
        with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path / name))}: {says}"):
            load_images([tmp_path / name], manifest)
    with pytest.raises(DataError, match="no image was given"):
        load_images([], manifest)


def test_sepnas_exposes_the_session():
    """`sepnas.Session` is the session, and other names are plain AttributeErrors."""
    assert sepnas.Session is Session
    assert sepnas.__version__ == "0.1.0"
    with pytest.raises(AttributeError, match="no attribute 'Sessions'"):
        sepnas.Sessions  # noqa: B018
