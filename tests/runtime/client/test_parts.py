"""The parts of a client that need no connection: liveness, request window, control inbox, causes of failures."""

import threading
import time

import pytest

from sepnas.errors import DeadlineError, PeerLostError, RemoteError, RemoteProtocolError
from sepnas.runtime.client.control_inbox import MAX_ARRIVALS, ControlInbox
from sepnas.runtime.client.failures import cause_of, error_of
from sepnas.runtime.client.limits import MAX_IN_FLIGHT
from sepnas.runtime.client.liveness import MAX_LATE, MAX_PONG_S, Liveness
from sepnas.runtime.client.request_window import RequestWindow
from sepnas.runtime.protocol.events import DeviceReport, Failed, Ping, Pong

AFTER_PONG_NS = int((MAX_PONG_S + 1) * 1e9)


@pytest.fixture
def liveness():
    return Liveness([0, 1], threading.RLock())


def test_a_device_is_silent_until_it_answers_the_ping_it_left_unanswered(liveness):
    """A ping without an answer makes a device absent; a pong to another ping changes nothing, its own pong does."""
    assert liveness.begin_pings(1) == {0, 1}
    assert liveness.take_pong(1, Pong(sent_ns=1, clock_ns=0))
    assert liveness.begin_pings(1 + AFTER_PONG_NS) == {1}
    assert liveness.states() == {0: "silent", 1: "ready"}
    assert liveness.absent() == {0}
    assert liveness.silent_for(MAX_PONG_S, 1 + AFTER_PONG_NS) == [0]
    assert not liveness.take_pong(0, Pong(sent_ns=2, clock_ns=0))
    assert liveness.take_pong(0, Pong(sent_ns=1, clock_ns=0))
    assert liveness.absent() == frozenset()


def test_a_device_that_is_often_late_fails_until_it_serves(liveness):
    """Late answers in a row make a device failing, and so useless but not absent; a served request clears it."""
    for _ in range(MAX_LATE):
        assert not liveness.is_failing
        liveness.note_late(1, "slow")
    assert liveness.states()[1] == "late: slow"
    assert liveness.useless() == {1}
    assert liveness.absent() == frozenset()
    liveness.note_served([1])
    assert liveness.useless() == frozenset()


def test_a_lost_device_is_neither_pinged_nor_suspected(liveness):
    """Loss overrides all that was noted of a device; when it is back it is ready."""
    liveness.suspect(0, Ping(sent_ns=5))
    liveness.note_lost(0, PeerLostError("device 0 was lost"))
    assert liveness.states()[0] == "device 0 was lost"
    assert liveness.present_ranks == (1,)
    assert not liveness.suspect(0, Ping(sent_ns=6))
    assert liveness.begin_pings(7) == {1}
    liveness.note_back(0)
    assert liveness.states() == {0: "ready", 1: "ready"}


def test_the_window_follows_the_oldest_open_request():
    """A request waits while the oldest open one is too far behind it, however many between them are finished."""
    window = RequestWindow()
    for number in range(1, MAX_IN_FLIGHT + 1):
        assert window.reserve(time.monotonic()) == number
    for number in range(2, MAX_IN_FLIGHT + 1):
        window.release(number)
    with pytest.raises(DeadlineError, match="request 1 is not answered and 0 wait behind it"):
        window.reserve(time.monotonic())
    window.release(1)
    assert window.reserve(time.monotonic()) == MAX_IN_FLIGHT + 1


def test_only_the_answer_to_the_last_question_is_queued():
    """A late answer, a second one and that of another device are dropped; an answer to no question is an error."""
    inbox = ControlInbox(threading.RLock())
    inbox.expect_reports({0})
    number = inbox.expect_reports({0})
    report = DeviceReport(what="counters", number=number, data={})
    inbox.take(0, DeviceReport(what="counters", number=number - 1, data={}))
    inbox.take(1, report)
    inbox.take(0, report)
    inbox.take(0, report)
    assert len(inbox) == 1
    assert inbox.get(0.0) == (0, report)
    with pytest.raises(RemoteProtocolError, match="which nobody asked"):
        inbox.take(0, DeviceReport(what="counters", number=number + 1, data={}))


def test_the_control_inbox_keeps_the_newest_events():
    """However much devices report, the queue is bounded, and the oldest event is dropped."""
    inbox = ControlInbox(threading.RLock())
    for number in range(MAX_ARRIVALS + 3):
        inbox.put((number, PeerLostError("lost")))
    assert len(inbox) == MAX_ARRIVALS
    assert inbox.get(0.0)[0] == 3


def test_a_failure_is_the_cause_of_missed_deadlines():
    """Of several reports the failure counts, and else the one that waits for a device that reports nothing itself."""
    waits_for_1 = Failed(code="deadline", rank=0, waiting_for=1, message="device 0 waits for device 1")
    waits_for_2 = Failed(code="deadline", rank=1, waiting_for=2, message="device 1 waits for device 2")
    failed = Failed(code="compute", rank=1, message="no memory")
    assert cause_of([waits_for_1, waits_for_2]) is waits_for_2
    assert cause_of([waits_for_1, failed]) is failed
    assert isinstance(error_of(failed), RemoteError)
    assert isinstance(error_of(waits_for_2), DeadlineError)
