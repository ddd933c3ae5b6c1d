"""A waiter that reads the connections it waits for, and channels that leave threads alone where they can."""

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sepnas.deployment.verify import load_manifest
from sepnas.errors import ExchangeError, HandshakeError
from sepnas.runtime.client.session import Session
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.protocol.events import Bye, Data, Hello, Welcome
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.transport.pipes import PlainPipe, TlsPipe
from sepnas.runtime.transport.polling import PullingCondition, new_condition
from sepnas.runtime.worker.mailbox import Mailbox
from tests.helpers_runtime import SOON_S, eventually, worker_threads

TAG, SAMPLE_BYTES = 7, 64

pytestmark = pytest.mark.skipif(
    not isinstance(new_condition(), PullingCondition), reason="needs Linux' epoll and eventfd"
)


@pytest.fixture
def waiting():
    found = PullingCondition()
    yield found
    found.close()


def greeted():
    """Two devices' channels over a socket, not yet started."""
    sockets = socket.socketpair()
    sizes = {TAG: SAMPLE_BYTES}
    sender = Channel(PlainPipe(sockets[0]), Connection(Side.DIALER, sizes, max_batch=1 << 20), "the receiver")
    receiver = Channel(PlainPipe(sockets[1]), Connection(Side.LISTENER, sizes, max_batch=1 << 20), "the sender")
    deadline = time.monotonic() + SOON_S
    sender.send_now(Hello(deployment_id="x", rank=0, session="s"), deadline)
    receiver.next_event(deadline)
    receiver.send_now(Welcome(rank=1), deadline)
    sender.next_event(deadline)
    return sender, receiver


@pytest.fixture
def ends(waiting):
    """What comes to the second of two channels goes into a mailbox that ``waiting`` belongs to."""
    sender, receiver = greeted()
    mailbox, readers = Mailbox(waiting), []

    def take(event):
        if isinstance(event, Bye):
            return
        readers.append(threading.current_thread())
        mailbox.put(event.request, event.tag, bytes(event.payload))

    sender.start(lambda event: None, lambda error: None)
    receiver.start(take, lambda error: mailbox.lose(0), waiting)
    yield sender, receiver, mailbox, readers
    sender.close()
    receiver.close()


def test_who_reads_may_answer_while_its_connection_ends():
    """A thread that hands out what it has read can send, though the connection's own reader is about to close it."""
    sender, receiver = greeted()
    ended, closing = threading.Event(), threading.Event()

    def answered():
        with suppress(ExchangeError):
            receiver.send(Bye())

    receiver.connection.forget = closing.set  # the reader's last step before it closes
    receiver.start(lambda event: None, lambda error: ended.set())
    with receiver._reader.lock:  # as one who pulls has it
        sender.pipe.sock.close()
        assert ended.wait(SOON_S)
        assert closing.wait(SOON_S)
        receiver._threads[0].join(0.05)  # it waits for who reads
        answer = threading.Thread(target=answered, daemon=True)
        answer.start()
        answer.join(SOON_S)
        assert not answer.is_alive()
    receiver.close()
    receiver._threads[0].join(SOON_S)
    assert not receiver._threads[0].is_alive()


def send_when_asleep(sender, mailbox, data):
    """Send when the waiter is about to sleep, and a moment later."""
    eventually(lambda: mailbox._changed._asleep)
    time.sleep(0.005)
    sender.send(data)


def test_buffered_messages_come_before_later_ones(waiting):
    """Messages whose bytes came with the greeting are delivered before one that another thread reads meanwhile."""
    sender, receiver = greeted()
    frames = [b"".join(sender.connection.send(Data(request, TAG, bytes(SAMPLE_BYTES)))) for request in (1, 2, 3)]
    receiver.connection.receive_data(frames[0] + frames[1])
    sender.pipe.sock.sendall(frames[2])
    delivered, complete = [], threading.Event()

    def take(event):
        if event.request == 1:
            pulling = threading.Thread(target=receiver.pull, daemon=True)
            pulling.start()
            pulling.join(0.05)  # long enough to overtake, if it could
        delivered.append(event.request)
        if len(delivered) == len(frames):
            complete.set()

    receiver.start(take, lambda error: None, waiting)
    assert complete.wait(SOON_S)
    assert delivered == [1, 2, 3]
    sender.pipe.sock.close()
    receiver.close()


def test_who_waits_reads_itself(ends):
    """A message that is waited for is read in the thread that waits: no other wakes up for it."""
    sender, _, mailbox, readers = ends
    for request in range(1, 51):
        payload = request.to_bytes(2, "big") * (SAMPLE_BYTES // 2)
        threading.Thread(target=send_when_asleep, args=(sender, mailbox, Data(request, TAG, payload))).start()
        assert mailbox.take(request, TAG, time.monotonic() + SOON_S).payload == payload
    assert readers.count(threading.current_thread()) > 25  # one that came before the wait is the reader's


def test_a_message_that_is_pulled_at_once_is_delivered():
    """From the moment at which a channel can be pulled, its events go to the receiver that it was started with."""

    class Eager(PullingCondition):
        def add(self, descriptor, pull):
            super().add(descriptor, pull)
            pull()

    sender, receiver = greeted()
    waiting, delivered = Eager(), []
    sender.pipe.sock.sendall(b"".join(sender.connection.send(Data(1, TAG, bytes(SAMPLE_BYTES)))))
    receiver.start(lambda event: delivered.append(event.request), lambda error: None, waiting)
    assert delivered == [1]
    sender.pipe.sock.close()
    receiver.close()
    waiting.close()


def test_two_threads_that_close_say_bye_once():
    """A thread that closes a connection does not cut off the Bye that another one is about to write."""
    sender, receiver = greeted()
    endings, ended = [], threading.Event()
    sender.start(lambda event: None, lambda error: None)
    receiver.start(lambda event: None, lambda error: (endings.append(error), ended.set()))
    write_some = sender.pipe.write_some
    closing = threading.Thread(target=sender.close, daemon=True)

    def write_later(data):
        closing.start()
        closing.join(0.1)  # long enough to shut the socket down, if it could
        return write_some(data)

    sender.pipe.write_some = write_later
    sender.close()
    closing.join(SOON_S)
    assert ended.wait(SOON_S)
    assert endings == [None]
    receiver.close()


def test_while_nobody_waits_messages_are_read_too(ends):
    """What comes while the waiter does something else is there when it looks."""
    sender, _, mailbox, readers = ends
    sender.send(Data(1, TAG, bytes(SAMPLE_BYTES)))
    limit = time.monotonic() + SOON_S
    while not readers and time.monotonic() < limit:
        time.sleep(0.001)
    assert len(readers) == 1
    assert readers[0] is not threading.current_thread()
    assert mailbox.take(1, TAG, 0.0).payload == bytes(SAMPLE_BYTES)


def test_another_thread_wakes_who_waits(ends):
    """A cancelled request, or a peer that is lost, ends the wait at once and not at its deadline."""
    _, _, mailbox, _ = ends
    start = time.monotonic()
    threading.Timer(0.1, mailbox.lose, [0]).start()
    assert mailbox.wait(1, TAG, start + SOON_S, source=0) is None
    assert time.monotonic() - start < SOON_S / 2


def test_the_end_of_a_connection_wakes_who_waits_for_it(ends):
    """A peer whose process is gone is noticed by who reads its connection while waiting."""
    sender, receiver, mailbox, _ = ends
    start = time.monotonic()
    threading.Timer(0.1, sender.abort).start()
    assert mailbox.wait(1, TAG, start + SOON_S, source=0) is None
    assert time.monotonic() - start < SOON_S / 2
    for thread in receiver._threads:
        thread.join(SOON_S)
        assert not thread.is_alive()
    assert receiver.pipe.sock.fileno() == -1


def test_a_wait_ends_at_its_deadline(ends):
    """Where nothing comes the waiter gives up in time."""
    _, _, mailbox, _ = ends
    start = time.monotonic()
    assert mailbox.wait(1, TAG, start + 0.05) is None
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("first_long", [False, True])
def test_messages_keep_their_order_and_content(ends, first_long):
    """Long messages go to the writer, short ones behind them wait for it, and those that fill the socket are split: all
    come whole, in the order of sending."""
    sender, _, mailbox, _ = ends
    payloads = {}
    for request in range(1, 41):
        samples = 20_000 if (request % 3 == 0) == first_long else 1 + request
        payloads[request] = request.to_bytes(2, "big") * (samples * SAMPLE_BYTES // 2)
    sending = threading.Thread(target=lambda: [sender.send(Data(r, TAG, p)) for r, p in payloads.items()])
    sending.start()
    for request, payload in payloads.items():
        assert mailbox.take(request, TAG, time.monotonic() + SOON_S).payload == payload
    sending.join()
    assert sender.flush(SOON_S)
    assert sender.sent.messages == 40
    assert sender.sent.payload_bytes == sum(map(len, payloads.values()))
    assert sender._writer.unwritten_frames == 0


def test_a_full_socket_does_not_hold_up_the_sender(ends):
    """Short messages that the peer does not read are queued, and sending them never waits."""
    sender, receiver, _, _ = ends
    with receiver._reader.lock:  # nobody reads
        start = time.monotonic()
        for request in range(1, 3000):
            sender.send(Data(request, TAG, bytes(512 * SAMPLE_BYTES // 2)))
        assert time.monotonic() - start < SOON_S
        assert sender._writer.unwritten_frames > 0


def test_nobody_is_woken_through_a_closed_condition():
    """After its end a condition takes notice of nothing, and its descriptors are given back."""
    condition = PullingCondition()
    condition.close()
    with condition:
        condition.notify_all()
    assert condition._epoll.closed


@pytest.mark.parametrize("words", [b"", b"the last words"])
def test_a_peer_that_ends_tls_is_at_its_end(exported, words):
    """What came before is given, then the end, and nothing spins."""
    deployment_id = load_manifest(exported).deployment_id
    ends = [Identity(exported / f"device{rank}/tls", rank, deployment_id) for rank in range(2)]
    here, there = socket.socketpair()
    with here, there:
        listener, dialer = TlsPipe(here, ends[0].server, None), TlsPipe(there, ends[1].client, ends[1].name(0))
        shaking = threading.Thread(target=listener.handshake, args=(time.monotonic() + SOON_S,))
        shaking.start()
        dialer.handshake(time.monotonic() + SOON_S)
        shaking.join()
        if words:
            dialer.write(words)
        with suppress(ssl.SSLError):  # it waits for the other end's word
            dialer._tls.unwrap()
        dialer._flush()
        heard = []
        reading = threading.Thread(target=lambda: heard.extend(bytes(listener.read()) for _ in range(2)), daemon=True)
        reading.start()
        reading.join(SOON_S)
    assert heard == [words, b""]


def num_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_clients_that_are_refused_leave_nothing(exported, monkeypatch):
    """However many clients find a device busy, it holds no descriptor for them."""
    monkeypatch.setattr("sepnas.runtime.worker.session_slot._BUSY_WAIT_S", 0.0)
    with worker_threads(exported, 2) as (_, hosts), Session(exported, hosts):
        before = num_descriptors()
        for _ in range(12):
            with pytest.raises(HandshakeError, match="busy"):
                Session(exported, hosts)
        limit = time.monotonic() + SOON_S
        while num_descriptors() > before + 5 and time.monotonic() < limit:
            time.sleep(0.05)
        assert num_descriptors() <= before + 5
