"""A client, a device and a visitor that belong to the deployment and mean harm: what they send does not pile up."""

import random
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sepnas.deployment.verify import load_manifest
from sepnas.errors import ExchangeError, RemoteError, RemoteProtocolError
from sepnas.plan.serial import message_from_data
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.status import Inspector
from sepnas.runtime.protocol import connection as protocol_module
from sepnas.runtime.protocol.connection import HEADER, MAGIC, MAX_ANSWER_BYTES, NEED_DATA, Connection, Side
from sepnas.runtime.protocol.events import (
    KINDS,
    PROTOCOL_VERSION,
    Ask,
    Bye,
    Cancel,
    Data,
    DeviceReport,
    Failed,
    Hello,
    Missed,
    PartialData,
    Ping,
    Pong,
    Ready,
    Recall,
    Request,
    Setup,
    Status,
    Welcome,
)
from sepnas.runtime.transport import writer as writer_module
from sepnas.runtime.transport.handshake import accept, dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker import mailbox as mailbox_module
from sepnas.runtime.worker.mailbox import MAX_ANNOUNCED, Mailbox
from sepnas.runtime.worker.vitals import memory_bytes
from sepnas.spec.hosts import Hosts, format_address
from tests.helpers_runtime import (
    eventually,
    worker_processes,
    worker_threads,
)

WAIT_S = 60.0


@pytest.fixture
def tiny(exported):
    """Two devices that exchange a few messages."""
    return exported


def identity_of(folder, rank):
    name = "client/tls" if rank < 0 else f"device{rank}/tls"
    return Identity(folder / name, rank, load_manifest(folder).deployment_id)


@contextmanager
def hostile_client(folder, hosts, session="harm"):
    """Channels to both devices of a session that is set up, and the tags of the client's messages."""
    manifest, identity = load_manifest(folder), identity_of(folder, -1)
    hello = Hello(deployment_id=manifest.deployment_id, rank=-1, session=session)
    peers = {str(rank): hosts.address(rank) for rank in range(2)}
    deadline = time.monotonic() + WAIT_S
    channels = [dial(rank, hosts.address(rank), hello, identity, {}, deadline) for rank in range(2)]
    try:
        for channel in channels:
            channel.send_now(Setup(peers=peers, deadline_ms=30_000), deadline)
        for channel in channels:
            assert isinstance(channel.next_event(deadline), Ready)
        inputs = [message_from_data(data) for data in manifest.plan().messages]
        yield channels, {message.destination: message for message in inputs if message.source == -1}
    finally:
        for channel in channels:
            channel.abort()


def can_be_used(folder, hosts):
    """Whether an honest client gets its answer."""
    with Session(folder, hosts, timeout_s=WAIT_S) as session:
        return session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


# -- a client that means harm


def test_a_message_of_no_request_ends_the_connection(tiny):
    """A message of the client belongs to a request that it announced; another one ends the session, which says so."""
    with worker_threads(tiny) as (workers, hosts):
        with hostile_client(tiny, hosts) as (channels, inputs):
            mailbox = workers[0]._slot.session._queue.mailbox
            session = workers[0]._slot.session
            with suppress(ExchangeError):
                channels[0].send_now(
                    Data(7, inputs[0].tag, bytes(inputs[0].payload_bytes())), time.monotonic() + WAIT_S
                )
            eventually(lambda: session._queue.ending is not None)
            assert "is of request 7, which was not announced" in str(session._queue.ending.error)
            assert mailbox.kept_bytes == 0
        assert can_be_used(tiny, hosts)


def test_requests_without_end_end_the_connection(tiny):
    """A client that asks on and on is left, with so many requests kept at most; cancelled ones do not count."""
    with worker_threads(tiny) as (workers, hosts):
        with hostile_client(tiny, hosts) as (channels, _):
            session = workers[0]._slot.session
            with suppress(ExchangeError):
                for number in range(1, 10 * MAX_ANNOUNCED):
                    request = Request(request=number, batch=1, deadline_ms=60_000)
                    channels[0].send_now(request, time.monotonic() + WAIT_S)
                    assert len(session._queue._jobs) <= MAX_ANNOUNCED + 1  # the end of the session is a job, too
            eventually(lambda: session._queue.ending is not None)
            assert f"while {MAX_ANNOUNCED} others from" in str(session._queue.ending.error)
        assert can_be_used(tiny, hosts)


def test_a_request_comes_once(tiny):
    """A client that sends one request again and again is left, and no copy of it is kept."""
    with worker_threads(tiny) as (workers, hosts):
        with hostile_client(tiny, hosts) as (channels, _):
            session = workers[0]._slot.session
            with suppress(ExchangeError):
                for _ in range(100):
                    again = Request(request=1, batch=1, deadline_ms=2**32 - 1)  # more than a system call can wait
                    channels[0].send_now(again, time.monotonic() + WAIT_S)
                    assert (
                        sum(job is not None for job in session._queue._jobs) <= 1
                    )  # the end of the session is a job, too
            eventually(lambda: session._queue.ending is not None)
            assert "request 1 comes twice" in str(session._queue.ending.error)
        assert can_be_used(tiny, hosts)


def test_a_message_beyond_all_room_is_not_kept_while_it_comes(tiny, monkeypatch):
    """Of a message that is larger than what an end keeps nothing is kept; its request is told, the session goes on."""
    monkeypatch.setattr(protocol_module, "max_kept_bytes", lambda: 100_000)
    listener = Connection(Side.LISTENER, {3: 1000})
    dialer = Connection(Side.DIALER)
    talk = [Data(1, 3, bytes(500_000)), Data(2, 3, bytes(1000)), Bye()]
    listener.receive_data(b"".join(dialer.send(Hello(deployment_id="x", rank=0, session="s"))))
    listener.next_event()
    dialer.receive_data(b"".join(listener.send(Welcome(rank=1))))
    dialer.next_event()
    came = []
    for data in (bytes(part) for event in talk for part in dialer.send(event)):
        for start in range(0, len(data), 10_000):
            listener.receive_data(data[start : start + 10_000])
            while (event := listener.next_event()) is not NEED_DATA:
                came.append(event)
            assert len(listener._buffer) <= 10_000
    assert came == [Data(1, 3, b""), Data(2, 3, bytes(1000)), Bye()]
    with worker_threads(tiny) as (_, hosts), Session(tiny, hosts) as session:
        with pytest.raises(RemoteError, match="send smaller batches"):
            session.infer(random_batch(session.manifest, 2000))
        assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_questions_replace_each_other(tiny):
    """Of questions that wait behind a request only the last is kept, for a client waits for no other."""
    with worker_threads(tiny) as (workers, hosts), hostile_client(tiny, hosts) as (channels, _):
        session, deadline = workers[0]._slot.session, time.monotonic() + WAIT_S
        channels[0].send_now(Request(request=1, batch=1, deadline_ms=60_000), deadline)
        for number in range(1, 500):
            channels[0].send_now(Ask(what="counters", number=number), deadline)
        channels[0].send_now(Ping(sent_ns=1), deadline)
        assert isinstance(channels[0].next_event(deadline), Pong)
        waiting = [job for job, _ in tuple(session._queue._jobs)]
        assert sum(isinstance(job, Ask) for job in waiting) <= 1


def test_a_peer_that_does_not_read_is_left(tiny, monkeypatch):
    """Pongs for a client that reads none of them do not pile up without end."""
    monkeypatch.setattr(writer_module, "MAX_UNWRITTEN_FRAMES", 200)
    with worker_threads(tiny) as (workers, hosts):
        with hostile_client(tiny, hosts) as (channels, _):
            session = workers[0]._slot.session
            session._client.channel.pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            with suppress(ExchangeError):
                for number in range(1_000_000):
                    channels[0].send_now(Ping(sent_ns=number), time.monotonic() + WAIT_S)
                    assert session._client.channel._writer.unwritten_frames <= 201
                    if session._queue.ending:
                        break
            eventually(lambda: session._queue.ending is not None)
            assert "does not read" in str(session._queue.ending.error)
        assert can_be_used(tiny, hosts)


def test_messages_beyond_the_room_cost_the_newest_request(tiny, monkeypatch):
    """What no room is left for is dropped with its request, whose client is told; the session goes on."""
    manifest = load_manifest(tiny)
    monkeypatch.setattr(mailbox_module, "max_kept_bytes", lambda: 300_000)
    with worker_threads(tiny) as (workers, hosts):
        with hostile_client(tiny, hosts) as (channels, inputs):
            session, deadline = workers[0]._slot.session, time.monotonic() + WAIT_S
            size = inputs[0].payload_bytes(400)
            for number in range(1, 31):
                channels[0].send_now(Request(request=number, batch=400, deadline_ms=60_000), deadline)
                channels[0].send_now(Data(number, inputs[0].tag, bytes(size)), deadline)
                assert session._queue.mailbox.kept_bytes <= 300_000 + size
            failed = channels[0].next_event(deadline)
            assert isinstance(failed, Failed)
            assert "device 0 dropped request" in failed.message
        with Session(tiny, hosts) as session, pytest.raises(RemoteError, match="send smaller batches"):
            session.infer(random_batch(manifest, 2000))
        assert can_be_used(tiny, hosts)


def test_a_mailbox_counts_what_it_keeps():
    """The bytes that wait are counted through every way in and out, and nothing is kept after the end."""
    box = Mailbox(max_bytes=100)
    assert box.announce(1)
    assert box.announce(2)
    for request in (1, 2):
        assert box.put(request, 3, bytes(30), announced=True) == ()
    assert box.kept_bytes == 60
    assert box.put(2, 4, bytes(60)) == (2,)
    assert box.kept_bytes == 30
    assert not box.announce(2)
    assert box.put(5, 4, bytes(90)) == ()  # nobody was promised anything for it
    box.take(1, 3, time.monotonic() + 5)
    assert box.kept_bytes == 0
    with pytest.raises(RemoteProtocolError, match="message 4 is of request 9, which was not announced"):
        box.put(9, 4, b"x", announced=True)
    box.put(6, 4, bytes(50))
    box.close()
    box.put(7, 4, bytes(50))
    assert box.kept_bytes == 0


@pytest.mark.slow
def test_a_session_that_ends_gives_its_memory_back(tiny):
    """60 MB of messages that wait are gone as soon as their client is; what the engine took for a batch may stay."""
    with worker_processes(tiny, 2) as (workers, hosts):
        assert can_be_used(tiny, hosts)
        before = memory_bytes(workers[0].process.pid)
        with hostile_client(tiny, hosts) as (channels, inputs):
            deadline = time.monotonic() + WAIT_S
            batch = 4096
            payload = bytes(max(inputs[0].sample_sizes()) * batch)
            for number in range(1, 61):
                request = Request(request=number, batch=batch, deadline_ms=600_000, normalised=True)
                channels[0].send_now(request, deadline)
                channels[0].send_now(Data(number, inputs[0].tag, payload), deadline)
            eventually(lambda: memory_bytes(workers[0].process.pid) > before + (80 << 20), "it was not kept")
        peak = before

        def is_gone():
            nonlocal peak
            now = memory_bytes(workers[0].process.pid)
            peak = max(peak, now)
            return now < peak - (50 << 20)

        eventually(is_gone, "it is still there")
        assert can_be_used(tiny, hosts)


# -- a device that means harm


@contextmanager
def hostile_devices(folder, do):
    """Two devices that greet and are ready, as a client sees it; then, once told to go, ``do(channel)`` in a thread
    of each."""
    deployment_id = load_manifest(folder).deployment_id
    assert deployment_id
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    go = threading.Event()

    def serve(rank):
        with suppress(OSError, ExchangeError):
            while True:
                channel, hello = accept(
                    listeners[rank].accept()[0], identity_of(folder, rank), "client", time.monotonic() + WAIT_S
                )
                deadline = time.monotonic() + WAIT_S
                channel.send_now(Welcome(rank=rank), deadline)
                if hello.purpose == "session":
                    channel.next_event(deadline)
                    channel.send_now(Ready(), deadline)
                    go.wait(WAIT_S)
                with suppress(OSError, ExchangeError):
                    do(channel)
                    while len(channel.pipe.read()):
                        pass
                channel.abort()

    threads = [threading.Thread(target=serve, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield Hosts.on([format_address(*listener.getsockname()) for listener in listeners]), go
    finally:
        go.set()
        for listener in listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join(WAIT_S)


def raw(kind, body):
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[kind], 0, 0, len(body)) + body


def lost_reason(session):
    eventually(lambda: set(session.health().values()) != {"ready"}, "no device was lost")
    return str(session.health())


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (DeviceReport(what="trace", number=1, data={}), "answers question 1, which nobody asked"),
        (
            Failed(code="compute", rank=0, request=9, message="x"),
            "speaks of request 9, but 0 is the last that was sent",
        ),
        (Missed(request=3, rank=0, source=1, tag=1), "speaks of request 3, but 0 is the last that was sent"),
    ],
    ids=["answer", "failure", "missed"],
)
def test_what_nobody_asked_a_device_ends_its_connection(tiny, event, says):
    """An answer to no question, and news of a request that was never sent, are told as what they are."""

    def do(channel):
        if channel.pipe.sock.getsockname()[1] == port:
            channel.send_now(event, time.monotonic() + WAIT_S)

    with hostile_devices(tiny, do) as (hosts, go):
        port = int(hosts.address(0).rpartition(":")[2])
        with Session(tiny, hosts, timeout_s=WAIT_S) as session:
            go.set()
            assert says in lost_reason(session)


def test_pongs_and_failures_do_not_pile_up_at_the_client(tiny):
    """Whatever a device says on and on, the client keeps little of it."""
    num_sent = []

    def do(channel):
        buffers = [channel.connection.send(Pong(sent_ns=number, clock_ns=1)) for number in range(1000)]
        buffers += [channel.connection.send(Failed(code="compute", rank=0, message="no " * 1000)) for _ in range(3000)]
        channel.pipe.write(b"".join(b"".join(each) for each in buffers))
        num_sent.append(len(buffers))

    with hostile_devices(tiny, do) as (hosts, go), Session(tiny, hosts, timeout_s=WAIT_S) as session:
        go.set()
        eventually(lambda: len(num_sent) == 2)
        eventually(lambda: len(session._connections.control) >= 1000)
        assert len(session._connections.control) <= 1024
        assert len(session._connections.router.endings) <= 16


def test_an_answer_of_empty_lists_takes_no_memory(tiny):
    """A long answer of which every third byte would be an object is refused before it becomes objects."""
    body = b'{"what":"trace","number":1,"data":{"requests":[' + b"[]," * 5_000_000 + b"1]}}"
    assert len(body) < MAX_ANSWER_BYTES

    def do(channel):
        channel.pipe.write(raw(DeviceReport, body))

    with hostile_devices(tiny, do) as (hosts, go), Session(tiny, hosts, timeout_s=WAIT_S) as session:
        before = memory_bytes()
        go.set()
        assert "DeviceReport frame: more than 1000000 values" in lost_reason(session)
        assert memory_bytes() - before < 150 << 20


def test_one_device_is_heard_once_for_a_request(tiny):
    """A device that says the same of a request again and again fills no inbox."""
    with worker_threads(tiny) as (_, hosts), Session(tiny, hosts, timeout_s=WAIT_S) as session:
        arrivals = []

        class _Inbox:
            def put(self, arrival):
                arrivals.append(arrival)

        reply = session.begin(random_batch(session.manifest, 1), _Inbox())
        eventually(lambda: arrivals)
        [tag] = session._messages["default"].answer_tags
        for _ in range(1000):
            session._connections.router.route(0, Data(reply.request, tag, bytes(20)))
            session._connections.router.route(1, Missed(request=reply.request, rank=1, source=0, tag=1))
            session._connections.router.route(1, Failed(code="compute", rank=1, request=reply.request, message="no"))
        assert len(arrivals) <= 4
        with pytest.raises(RemoteProtocolError, match="has 40 bytes; 20 were expected"):
            session._connections.router.route(1, Data(reply.request, tag, bytes(40)))
        session.abandon(reply)


# -- who comes for the status


def test_a_device_that_floods_a_visitor_is_read_once(tiny):
    """A visitor reads one answer to each question, whatever else the device sends."""

    def do(channel):
        status = Status(rank=0, version="x", engine="x", uptime_s=1.0, served=0, failed={}, missed=0)
        flood = b"".join(b"".join(channel.connection.send(event)) for event in [status] * 10_000)
        channel.pipe.write(flood)

    with hostile_devices(tiny, do) as (hosts, _), Inspector(tiny, hosts) as inspector:
        rows = inspector.look()
        assert not any(row.is_there for row in rows)


# -- any valid frames, at random


FUZZED_S = 30.0
MAX_GROWTH_BYTES = 500 << 20


def frame_of(event):
    """An event as a frame, wherever the conversation stands."""
    if isinstance(event, Data):
        head = HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[type(event)], event.tag, event.request, len(event.payload))
        return head + event.payload
    return raw(type(event), event.model_dump_json().encode())


def random_event(draw, message):
    """What a client may say in a session, with numbers at random."""
    request, batch = draw.choice([draw.randrange(1, 40), draw.randrange(1 << 32)]), draw.choice([1, 1, 3, 64, 500])
    kinds = {
        "request": lambda: Request(
            request=request,
            batch=batch,
            deadline_ms=draw.choice([0, 1, 50, 60_000]),
            plan=draw.choice(["default", "default", "none", "../x"]),
        ),
        "data": lambda: Data(request, message.tag, bytes(message.payload_bytes(batch))),
        "partial": lambda: PartialData(request, message.tag, bytes(message.payload_bytes(batch))),
        "cancel": lambda: Cancel(request=request),
        "recall": lambda: Recall(request=request, tag=draw.randrange(1 << 32)),
        "ping": lambda: Ping(sent_ns=draw.randrange(1 << 63)),
        "pong": lambda: Pong(sent_ns=draw.randrange(1 << 63), clock_ns=1),
        "ask": lambda: Ask(what=draw.choice(["trace", "counters"]), number=request, last=draw.randrange(1 << 32)),
        "bye": Bye,
    }
    weights = [30, 30, 1, 10, 10, 10, 10, 10, 0.2]
    return kinds[draw.choices(list(kinds), weights)[0]]()


def honest_request(number, message):
    return [
        Request(request=number, batch=2, deadline_ms=60_000),
        Data(number, message.tag, bytes(message.payload_bytes(2))),
    ]


def state_of(process):
    """Memory, descriptors and threads of a process."""
    folder = Path(f"/proc/{process.pid}")
    return memory_bytes(process.pid), len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_frames_of_a_client_leave_devices_well(tiny):
    """Half a minute of valid frames in any order: devices stay within their bounds and answer the next client."""
    draw, sent = random.Random(0), 0
    with worker_processes(tiny, 2) as (workers, hosts):
        assert can_be_used(tiny, hosts)
        before = [state_of(worker.process) for worker in workers]
        limit = time.monotonic() + FUZZED_S
        while time.monotonic() < limit:
            with hostile_client(tiny, hosts, session=f"{draw.getrandbits(32):x}") as (channels, inputs):
                for channel in channels:
                    channel.pipe.sock.settimeout(5.0)
                with suppress(OSError, ExchangeError):
                    for _ in range(draw.choice([20, 200, 2000])):
                        rank = draw.randrange(2)
                        events = [random_event(draw, inputs[rank])]
                        if draw.random() < 0.2:
                            events = honest_request(draw.randrange(1, 60), inputs[rank])
                        for event in events:
                            channels[rank].pipe.write(frame_of(event))
                            sent += 1
            for worker, (memory, descriptors, num_threads) in zip(workers, before, strict=True):
                now = state_of(worker.process)
                assert now[0] < memory + MAX_GROWTH_BYTES
                assert now[1] < descriptors + 40
                assert now[2] < num_threads + 40
        assert can_be_used(tiny, hosts)
        for worker, (_, descriptors, num_threads) in zip(workers, before, strict=True):
            eventually(lambda p=worker.process, d=descriptors: state_of(p)[1] <= d + 2, "descriptors are left open")
            eventually(lambda p=worker.process, n=num_threads: state_of(p)[2] <= n + 2, "threads are left")
    assert sent > 100
