"""Answers without a device: killed, frozen and slow workers, and what the answers are then."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepnas.errors import DeadlineError, PeerLostError, RemoteError, SpecError
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.merges import optional_tensors
from sepnas.plan.plan import Piece, Port
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Recv
from sepnas.runtime.client.answer import Missing
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.limits import MAX_IN_FLIGHT
from sepnas.runtime.client.reply import Reply
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.protocol.events import Data, Missed, PartialData
from sepnas.runtime.worker.mailbox import MAX_REQUESTS_AHEAD
from sepnas.runtime.worker.patience import Patience
from sepnas.separable.build import build_plan
from sepnas.separable.policy import Readout
from tests.helpers_runtime import (
    FROZEN_S,
    SOON_S,
    Gated,
    WorkerProcess,
    eventually,
    export_tiny,
    freeze,
    lively_network,
    threads,
    tiny_architecture,
    transfer,
    whole_logits,
    worker_processes,
    worker_threads,
)

POINTS = [
    {"after": 0, "transfers": [transfer(0, 1, "int8", 1, 0.5), transfer(1, 0, "fp16"), transfer(2, 0, "fp16")]},
    {"after": 2, "transfers": [transfer(1, 0, "int8", 1), transfer(2, 1, "fp32"), transfer(0, 2, "int8", 1)]},
    {"after": 3, "transfers": [transfer(2, 0, "int8"), transfer(0, 2)]},
]


class Deployed:
    """A network and its deployment, and what it answers without some of its devices."""

    def __init__(self, folder, readout: str) -> None:
        self.folder = folder / readout
        self.network = lively_network(tiny_architecture(POINTS, readout))
        export_tiny(self.network, self.folder, ("torch", "onnxruntime"), on_missing="degrade")

    def logits_without(self, lost: set[int], x_bchw: np.ndarray) -> np.ndarray:
        """Of the whole network whose policy never heard of them: the mean of those that are left, or the reader's."""
        architecture = self.network.architecture
        policy = architecture.policy.without(lost)
        readers = [0] if policy.readout.kind == "device" else [rank for rank in range(3) if rank not in lost]
        found = []
        for reader in readers:
            alone = policy.model_copy(update={"readout": Readout(device=reader)})
            own = SeparableNetwork(architecture.model_copy(update={"policy": alone})).eval()
            own.load_state_dict(self.network.state_dict(), strict=False)
            found.append(whole_logits(own, x_bchw))
        return np.mean(found, axis=0, dtype=np.float32)

    def check(self, answer, lost: set[int], x_bchw: np.ndarray) -> None:
        np.testing.assert_allclose(answer.logits, self.logits_without(lost, x_bchw), rtol=0, atol=2e-3)

    @contextmanager
    def served(self, **options):
        """Running workers and a session that has had an answer."""
        with worker_processes(self.folder, 3, "onnxruntime") as (workers, hosts):
            self.hosts = hosts
            with Session(self.folder, hosts, timeout_s=SOON_S, **options) as session:
                x_bchw = random_batch(session.manifest, 2)
                self.check(session.ask(x_bchw), set(), x_bchw)
                yield [worker.process for worker in workers], session

    @contextmanager
    def restarted(self, lost: set[int]):
        """These devices once more, where they were."""
        with ExitStack() as stack:
            for rank in lost:
                address = self.hosts.address(rank)
                worker = WorkerProcess(self.folder / f"device{rank}", engine="onnxruntime", listen=address)
                stack.callback(worker.end)
                worker.address()
            yield

    def complete_again(self, session: Session) -> None:
        """Wait until an answer has everything in it."""
        x_bchw, limit = random_batch(session.manifest, 2, seed=2), time.monotonic() + 2 * SOON_S
        while not (answer := session.ask(x_bchw, 5.0)).complete:
            assert time.monotonic() < limit, (answer.missing, answer.without, session.health())
            time.sleep(0.05)
        self.check(answer, set(), x_bchw)


@pytest.fixture(scope="module")
def mean(tmp_path_factory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("degrade"), "mean")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("degrade"), "device")


def lose(processes, session: Session, lost: set[int]) -> None:
    """Kill these devices, and wait until the session knows."""
    for rank in lost:
        processes[rank].kill()
        processes[rank].wait()
    eventually(lambda: all("was lost" in session.health()[rank] for rank in lost))


def check_late(deployed: Deployed, answer, x_bchw: np.ndarray) -> None:
    """The answer is that without device 1, unless the machine is so busy that others are late, too, or nobody can say
    who is."""
    if {missing.source for missing in answer.missing} == {1} and not answer.without:
        deployed.check(answer, {1}, x_bchw)


def thaw(process) -> None:
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("lost", [{1}, {2}, {0}, {1, 2}, {0, 2}])
def test_killed_devices_are_done_without(mean, lost):
    """The answer is that of the network without their messages and logits, marked; also where the reader is lost."""
    with mean.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 3, seed=1)
        for rank in lost:
            processes[rank].kill()
            processes[rank].wait()
        first = session.ask(x_bchw)
        assert not first.complete
        lose(processes, session, lost)
        # the loss is known: nobody waits, and the same is missing for all
        start = time.monotonic()
        answers = [session.ask(x_bchw), *session.answers(itertools.repeat(x_bchw, 5), in_flight=3)]
        assert time.monotonic() - start < SOON_S / 3  # one wait in vain takes half of a deadline or more
        for answer in answers:
            assert (set(answer.without), answer.missing) == (lost, ())
            mean.check(answer, lost, x_bchw)
        assert session.counters().requests >= 6


def test_a_frozen_device_is_done_without_until_it_answers_again(mean):
    """The first answer is there by the deadline and says what was late; then nobody waits for it; thawed it is back."""
    with mean.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        freeze(processes[1].pid)
        try:
            answer = session.ask(x_bchw, FROZEN_S)
            assert not answer.complete
            check_late(mean, answer, x_bchw)
            eventually(lambda: session.ask(x_bchw, FROZEN_S).without == (1,))
            for later in session.answers(itertools.repeat(x_bchw, 2 * MAX_REQUESTS_AHEAD)):
                assert (later.without, later.missing) == ((1,), ())
            mean.check(later, {1}, x_bchw)
            assert session.health()[1] == "silent"
            assert session.counters().requests
        finally:
            thaw(processes[1])
        mean.complete_again(session)
        assert set(session.health().values()) == {"ready"}


def test_a_frozen_reader_is_answered_for(mean):
    """The others' own logits are the answer when the reader does not answer in time."""
    with mean.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        freeze(processes[0].pid)
        try:
            assert 0 in session.ask(x_bchw, FROZEN_S).without
            later = session.ask(x_bchw)
            assert later.without == (0,)
            mean.check(later, {0}, x_bchw)
        finally:
            thaw(processes[0])


def test_a_reader_alone_with_the_classifier_cannot_be_done_without(single):
    """Others may be lost; the only reader not: frozen it is a deadline, killed a lost device, at once and again."""
    with single.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        lose(processes, session, {2})
        single.check(session.ask(x_bchw), {2}, x_bchw)
        freeze(processes[0].pid)
        try:
            for _ in range(2):
                with pytest.raises(DeadlineError):
                    session.ask(x_bchw, 0.5)
        finally:
            thaw(processes[0])
        assert session.ask(x_bchw).without == (2,)
        processes[0].kill()
        processes[0].wait()
        for _ in range(2 * MAX_IN_FLIGHT):
            with pytest.raises(PeerLostError, match="device 0"):
                session.ask(x_bchw)


def test_all_devices_lost_is_an_error(mean):
    """Without any device there is no answer, and the error names one of them."""
    with mean.served() as (processes, session):
        for process in processes:
            process.kill()
            process.wait()
        for _ in range(2):
            with pytest.raises(PeerLostError, match="device"):
                session.ask(random_batch(session.manifest, 1))


def test_a_session_may_be_stricter_than_its_deployment(mean):
    """``strict`` overrides what was said at the export: a lost device is an error."""
    with mean.served(on_missing="strict") as (processes, session):
        processes[1].kill()
        with pytest.raises(PeerLostError, match="device 1"):
            session.infer(random_batch(session.manifest, 1))
    with pytest.raises(SpecError, match="`on_missing` must be one of strict, degrade, got 'lenient'"):
        Session(mean.folder, on_missing="lenient")


class Late(TorchEngine):
    """Device 1 of a batch of three: waits until it may go on; of four: broken."""

    def __init__(self, shard, threads=1) -> None:
        super().__init__(shard, threads)
        self.rank = shard.rank
        self.may_go_on = threading.Event()

    def run(self, segment, inputs):
        if self.rank == 1 and len(inputs[0]) == 3:
            assert self.may_go_on.wait(SOON_S)
        if self.rank == 1 and len(inputs[0]) == 4:
            raise RuntimeError("a batch of four")
        return super().run(segment, inputs)


def test_late_messages_are_done_without(mean):
    """A device that is too slow is left out of that answer, and takes part again in the next."""
    with (
        worker_threads(mean.folder, 3, engine=Late) as (workers, hosts),
        Session(mean.folder, hosts, timeout_s=SOON_S) as session,
    ):
        quick, slow = (random_batch(session.manifest, size, seed=1) for size in (2, 3))
        mean.check(session.ask(quick), set(), quick)
        try:
            answer = session.ask(slow, FROZEN_S)
        finally:
            workers[1]._context.engine.may_go_on.set()
        assert not answer.complete
        check_late(mean, answer, slow)
        mean.complete_again(session)


def test_a_failing_device_is_done_without(mean, single):
    """What fails on one device is that device's loss; what fails on the only reader is the request's."""
    with threads(mean.folder, 3, engine=Late) as hosts, Session(mean.folder, hosts, timeout_s=SOON_S) as session:
        broken = random_batch(session.manifest, 4, seed=1)
        answer = session.ask(broken, FROZEN_S)
        assert not answer.complete
        check_late(mean, answer, broken)

    class Reader(Late):
        def __init__(self, shard, threads=1) -> None:
            super().__init__(shard, threads)
            self.rank = 1 - shard.rank

    with threads(single.folder, 3, engine=Reader) as hosts, Session(single.folder, hosts) as session:
        with pytest.raises(RemoteError, match=r"device 0.*a batch of four"):
            session.ask(random_batch(session.manifest, 4))
        single.check(session.ask(random_batch(session.manifest, 2)), set(), random_batch(session.manifest, 2))


@pytest.mark.parametrize("lost", [{1}, {0}, {1, 2}])
def test_a_restarted_device_rejoins(mean, lost):
    """A device that is started again takes part again, in the same session, whoever it was, and says so."""
    with mean.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        lose(processes, session, lost)
        mean.check(session.ask(x_bchw), lost, x_bchw)
        with mean.restarted(lost):
            mean.complete_again(session)
            assert set(session.health().values()) == {"ready"}
            assert len(session.trace().requests[-1].devices) == 3


def test_all_devices_may_come_back(mean):
    """With no device left requests on their way and later ones fail; started again, all rejoin the same session."""
    with mean.served() as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        answered = threading.Event()

        def ask_for_ever() -> None:
            for _ in session.stream(itertools.repeat(x_bchw), 4):
                answered.set()

        asking = threading.Thread(target=lambda: _error(ask_for_ever))
        asking.start()
        assert answered.wait(SOON_S)
        for process in processes:
            process.kill()
            process.wait()
        asking.join(SOON_S)
        assert not asking.is_alive()
        with pytest.raises(PeerLostError, match="device"):
            session.ask(x_bchw)
        with mean.restarted({0, 1, 2}):
            eventually(lambda: set(session.health().values()) == {"ready"}, session.health)
            mean.complete_again(session)


def test_two_devices_that_lost_each_other_are_brought_together(mean):
    """Where only the connection between two devices is lost, the client takes one out and in again."""
    with (
        worker_threads(mean.folder, 3) as (workers, hosts),
        Session(mean.folder, hosts, timeout_s=SOON_S) as session,
    ):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        mean.check(session.ask(x_bchw), set(), x_bchw)
        workers[0]._slot.session._peers.channels()[1].pipe.sock.shutdown(socket.SHUT_RDWR)
        mean.complete_again(session)


def test_a_closed_session_ends_who_waits(single):
    """Also where it degrades, a request that waits when the session is closed hears that it was closed."""

    class Slow(Gated):
        gate, entered = threading.Event(), threading.Event()

        def run(self, segment, inputs):
            return super().run(segment, inputs) if len(inputs[0]) == 3 else TorchEngine.run(self, segment, inputs)

    with threads(single.folder, 3, engine=Slow) as hosts:
        session, found = Session(single.folder, hosts, timeout_s=SOON_S), []
        waiting = threading.Thread(
            target=lambda: found.append(_error(lambda: session.infer(random_batch(session.manifest, 3))))
        )
        waiting.start()
        try:
            assert Slow.entered.wait(SOON_S)
            session.close()
            waiting.join(SOON_S)
        finally:
            Slow.gate.set()
    [error] = found
    assert re.match("the session (was closed before the answer came|is closed)", str(error))


def _error(call) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def test_asyncio_degrades_too(mean):
    """An asyncio session answers without a killed reader, in streams too, and says so."""
    with worker_processes(mean.folder, 3, "onnxruntime") as (workers, hosts):

        async def run():
            async with AsyncSession(mean.folder, hosts, timeout_s=SOON_S) as session:
                x_bchw = random_batch(session.session.manifest, 2, seed=1)
                whole = await session.ask(x_bchw)
                await asyncio.to_thread(lose, [worker.process for worker in workers], session.session, {0})
                return x_bchw, whole, [a async for a in session.answers([x_bchw] * 5, in_flight=2)]

        x_bchw, whole, without = asyncio.run(run())
    mean.check(whole, set(), x_bchw)
    assert whole.complete
    for answer in without:
        assert answer.without == (0,)
        mean.check(answer, {0}, x_bchw)


CLASSES = Shape.vector(2)
WHOLE = Region.whole(CLASSES)
GATHERED = Port("logits", CLASSES, (Piece(WHOLE, 0, 7),), (Piece(WHOLE, 1, 5), Piece(WHOLE, 2, 6)))
"""Device 0 answers; devices 1 and 2 hold logits of their own."""
HALVES = Port("scores", CLASSES, (Piece(Region(((0, 1),)), 1, 8), Piece(Region(((1, 2),)), 2, 9)))


def waiting_reply(left_s: float = 10.0, ports: tuple[Port, ...] = (GATHERED,), **options) -> Reply:
    return Reply(1, 1, ports, time.monotonic() + left_s, tolerant=True, **options)


def values(*numbers: float) -> bytes:
    return np.array(numbers, np.float32).tobytes()


def test_a_partial_answer_is_never_called_complete():
    """Also when nobody said what is missing, and with what was said when it came in time."""
    reply = waiting_reply()
    reply.take((0, PartialData(1, 7, values(5, 5))))
    assert not reply.done
    assert reply.left_s < 1
    found = reply.answer(None)
    assert (found.complete, found.missing, found.without) == (False, (), ())
    reply.take((2, Missed(request=1, rank=2, source=1, tag=3)))
    assert reply.answer(None).missing == (Missing(2, 1, 3),)
    assert reply.silent == {1}
    assert reply.fall_back() == []
    assert reply.done


def test_a_late_look_leaves_time_to_recall():
    """Who looks after its answer was due may still ask the others, and one that sends nonsense is left out."""
    reply = waiting_reply(left_s=-5.0)
    assert reply.left_s == 0
    assert reply.fall_back() == [(1, 5), (2, 6)]
    assert reply.left_s > 0
    reply.take((1, Data(1, 5, values(3, 3))))
    assert not reply.done
    reply.take((2, Data(1, 6, b"")))
    assert reply.done
    found = reply.answer(None, "logits")
    assert (found.logits.tolist(), found.without) == ([[3.0, 3.0]], (0, 2))


def test_an_answer_after_a_recall_makes_nobody_suspect():
    """When the reader answers after all, its answer counts, and those that were recalled are not silent."""
    reply = waiting_reply(left_s=0.01)
    reply.fall_back()
    reply.take((0, Data(1, 7, values(1, 1))))
    assert reply.done
    assert reply.answer(None).complete
    assert reply.silent == frozenset()


def test_each_output_falls_back_by_itself():
    """An output whose device is gone is recalled at once, while the pieces of another are awaited."""
    reply = waiting_reply(ports=(GATHERED, HALVES))
    reply.take((0, PeerLostError("device 0 is gone")))
    assert reply.left_s == 0
    assert reply.fall_back() == [(1, 5), (2, 6)]
    reply.take((1, Data(1, 5, values(2, 4))))
    reply.take((2, Data(1, 6, values(4, 8))))
    reply.take((1, Data(1, 8, values(1))))
    assert not reply.done
    reply.take((2, Data(1, 9, values(2))))
    assert reply.done
    found = reply.answer(None)
    assert {name: array.tolist() for name, array in found.outputs.items()} == {"logits": [[3, 6]], "scores": [[1, 2]]}
    assert (found.complete, found.without) == (False, (0,))


def test_an_output_without_a_piece_and_a_fallback_is_no_answer():
    """When a device that holds a piece of an output is gone, nothing else is waited for."""
    reply = waiting_reply(ports=(GATHERED, HALVES))
    reply.take((2, PeerLostError("device 2 is gone")))
    assert reply.done
    with pytest.raises(PeerLostError, match="device 2 is gone"):
        reply.answer(None)


@pytest.mark.parametrize(
    "event", [(1, Data(1, 7, values(9, 9))), (0, Data(1, 99, values(9, 9)))], ids=["whose", "what"]
)
def test_a_piece_counts_only_from_its_device(event):
    """A message of another device, or with a tag that is no piece, does not become an output."""
    reply = waiting_reply()
    reply.take(event)
    assert not reply.done
    reply.take((0, Data(1, 7, values(1, 2))))
    reply.take((0, Data(1, 7, values(9, 9))))
    assert reply.answer(None).outputs["logits"].tolist() == [[1, 2]]


def test_what_can_be_missed_is_what_only_merges_take(mean):
    """All that devices exchange in a separable network can be missed; the client's image cannot."""
    for program in build_plan(mean.network.architecture).programs:
        received = {step.tensor for step in program if isinstance(step, Recv) and step.source != CLIENT}
        assert optional_tensors(program) == received


class Ended:
    def __init__(self, end_ns: int) -> None:
        self.end_ns = end_ns


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20), st.floats(1e-4, 100.0), st.floats(1e-4, 100.0),
    st.booleans(),
)  # fmt: skip
def test_patience_leaves_time_for_what_follows(took_s, start, budget_s, taught):
    """The later the step the later it gives up; what follows it keeps the time that it was measured to take."""
    patience, ends_s = Patience(len(took_s)), np.cumsum(took_s)
    if taught:
        patience.learn(1, 0, [Ended(round(1e9 * end)) for end in ends_s])
    patience.begin(1, start, start + budget_s)
    untils = [patience.until(step) for step in range(len(took_s))]
    assert untils == sorted(untils)
    assert untils[-1] == pytest.approx(start + budget_s)
    assert untils[0] >= start - 1e-6
    if taught and ends_s[-1] < budget_s:
        for end_s, until in zip(ends_s, untils, strict=True):
            assert start + budget_s - until >= 0.999 * (ends_s[-1] - end_s) - 1e-6
