"""Several requests on their way at once: in a stream, from several threads, and in asyncio, on real workers."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sepnas
from sepnas.errors import DataError, DeadlineError, LocalProtocolError, PeerLostError, RemoteError, SpecError
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.bench import bench, random_batch
from sepnas.runtime.client.limits import MAX_IN_FLIGHT
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.worker.mailbox import MAX_REQUESTS_AHEAD, Mailbox
from tests.helpers_runtime import eventually, threads, whole_logits, worker_processes

NEXT_S = 30.0
"""After this a worker that was to be free again hangs."""


@pytest.fixture(scope="module")
def served(exported):
    """Two worker processes, and a session with them."""
    with worker_processes(exported, 2, "onnxruntime") as (_, hosts), Session(exported, hosts) as session:
        yield exported, hosts, session


def batches(session: Session, count: int) -> list[np.ndarray]:
    return [random_batch(session.manifest, 1 + seed % 3, seed) for seed in range(count)]


class Slow(TorchEngine):
    """Waits with a batch of three until it may go on, and fails for one of four."""

    entered, may_go_on = threading.Event(), threading.Event()
    has_entered: ClassVar[set[int]] = set()

    def __init__(self, shard, threads=1):
        super().__init__(shard, threads)
        self._rank = shard.rank

    def run(self, segment, inputs):
        if len(inputs[0]) == 3:
            self.has_entered.add(self._rank)
            self.entered.set()
            assert self.may_go_on.wait(NEXT_S)
        if len(inputs[0]) == 4:
            raise RuntimeError("a batch of four")
        return super().run(segment, inputs)


@pytest.mark.parametrize("in_flight", [1, 2, MAX_IN_FLIGHT])
def test_a_stream_answers_in_order(served, network, in_flight):
    """Each batch gets its own answer, in order, whatever its size and however many are on their way."""
    _, _, session = served
    given = batches(session, 40)
    found = list(session.stream(iter(given), in_flight))
    assert len(found) == len(given)
    for logits, batch in zip(found, given, strict=True):
        np.testing.assert_allclose(logits, whole_logits(network, batch), rtol=0, atol=1e-4)
    assert session.counters().requests >= len(given)


def test_a_stream_takes_batches_when_it_needs_them(served):
    """At most ``in_flight`` batches are taken before the first answer is handed on; an endless stream can be left."""
    _, _, session = served
    taken = itertools.count()
    stream = session.stream((random_batch(session.manifest, 1) for _ in taken), in_flight=3)
    next(stream)
    assert next(taken) == 3
    stream.close()
    assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_a_stream_that_rests_holds_nobody_up(served):
    """While a stream waits for its consumer, other requests than those that may be on their way are answered."""
    _, _, session = served
    batch = random_batch(session.manifest, 1)
    stream, other = (session.stream(itertools.repeat(batch), in_flight=3) for _ in range(2))
    next(stream)
    for _ in range(2 * MAX_IN_FLIGHT):
        session.infer(batch, NEXT_S)
        next(other)
    next(stream)


def test_a_stream_may_be_collected_while_its_session_sends(served):
    """A dropped stream waits for no lock of the thread that happens to collect it, and its places become free."""
    _, _, session = served
    batch, collected = random_batch(session.manifest, 1), []
    for _ in range(2):
        stream = session.stream(itertools.repeat(batch), in_flight=MAX_IN_FLIGHT - 1)
        next(stream)
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle

        def collect_while_sending():
            with session._connections.channels[0]._writer.lock:
                collected.append(gc.collect())

        collecting = threading.Thread(target=collect_while_sending, daemon=True)
        collecting.start()
        collecting.join(20.0)
    assert len(collected) == 2
    assert session.infer(batch).shape == (1, 5)


def test_threads_share_a_session(served, network):
    """Requests of several threads are on their way at once, and each thread gets its own answers."""
    _, _, session = served
    wrong: list[object] = []

    def work(seed: int) -> None:
        for batch in batches(session, 12)[seed:]:
            try:
                np.testing.assert_allclose(session.infer(batch), whole_logits(network, batch), rtol=0, atol=1e-4)
            except Exception as error:
                wrong.append(error)

    running = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert not any(thread.is_alive() for thread in running)
    assert not wrong


def test_a_late_request_harms_no_other(exported, network):
    """A request that misses its deadline is cancelled alone: those before and behind it are answered."""
    Slow.entered.clear()
    Slow.may_go_on.clear()
    with threads(exported, engine=Slow) as hosts, Session(exported, hosts) as session:
        quick, slow = random_batch(session.manifest, 1), random_batch(session.manifest, 3)
        found: dict[str, object] = {}

        def ask(name: str, batch: np.ndarray, timeout_s: float) -> threading.Thread:
            def run() -> None:
                try:
                    found[name] = session.infer(batch, timeout_s)
                except DeadlineError as error:
                    found[name] = error

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        first = ask("slow", slow, NEXT_S)
        assert Slow.entered.wait(NEXT_S)
        late, behind = ask("late", quick, 0.5), ask("behind", quick, NEXT_S)
        late.join(NEXT_S)
        Slow.may_go_on.set()
        for thread in (first, behind):
            thread.join(NEXT_S)
        assert isinstance(found["late"], DeadlineError)
        np.testing.assert_allclose(found["slow"], whole_logits(network, slow), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["behind"], whole_logits(network, quick), rtol=0, atol=1e-4)


def test_what_fails_in_a_stream_is_named_and_the_session_goes_on(exported, network):
    """The answers before it come, then its error; what was on its way behind it is cancelled."""
    with threads(exported, engine=Slow) as hosts, Session(exported, hosts) as session:
        good, bad = random_batch(session.manifest, 2), random_batch(session.manifest, 4)
        stream = session.stream([good, good, bad, good, good], in_flight=4)
        assert [len(next(stream)), len(next(stream))] == [2, 2]
        with pytest.raises(RemoteError, match="a batch of four"):
            next(stream)
        np.testing.assert_allclose(session.infer(good, NEXT_S), whole_logits(network, good), rtol=0, atol=1e-4)


def test_a_batch_of_another_shape_in_a_stream_is_refused(served):
    """The batch is refused when it is taken, and the session goes on."""
    _, _, session = served
    stream = session.stream([random_batch(session.manifest, 1), np.zeros((1, 2, 3), np.float32)], in_flight=2)
    with pytest.raises(DataError, match="a batch must have the shape"):
        list(stream)
    assert session.infer(random_batch(session.manifest, 1), NEXT_S).shape == (1, 5)


@pytest.mark.parametrize("in_flight", [0, -1, MAX_IN_FLIGHT + 1])
def test_too_many_or_too_few_in_flight_are_refused(served, in_flight):
    """The allowed range is named before anything is sent."""
    deployment, hosts, session = served
    with pytest.raises(SpecError, match=rf"`in_flight` must lie in 1..32, got {in_flight}"):
        session.stream([], in_flight)

    async def run() -> None:
        closed = AsyncSession(deployment, hosts)
        await anext(closed.stream([], in_flight))

    with pytest.raises(SpecError, match=rf"`in_flight` must lie in 1..32, got {in_flight}"):
        asyncio.run(run())


def test_a_killed_worker_ends_every_request_on_its_way(exported):
    """Who waits hears of the lost device at once, and what is asked later is told the same."""
    with (
        worker_processes(exported, 2, "onnxruntime") as (workers, hosts),
        Session(exported, hosts, timeout_s=60) as session,
    ):
        batch = random_batch(session.manifest, 1)
        stream = session.stream(itertools.repeat(batch), in_flight=8)
        for _ in range(5):
            next(stream)
        workers[1].process.kill()
        start = time.monotonic()
        with pytest.raises(PeerLostError, match="device 1"):
            for _ in stream:
                pass
        with pytest.raises(PeerLostError, match="device 1"):
            session.infer(batch)
        assert time.monotonic() - start < NEXT_S


def test_closing_a_session_ends_who_waits(exported):
    """A request that another thread waits for ends with an error when the session is closed."""
    Slow.has_entered.clear()
    Slow.may_go_on.clear()
    with threads(exported, engine=Slow) as hosts:
        session = Session(exported, hosts)
        found: list[Exception] = []

        def wait() -> None:
            try:
                session.infer(random_batch(session.manifest, 3))
            except Exception as error:
                found.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(lambda: Slow.has_entered == {0, 1})  # all is sent
        session.close()
        waiting.join(NEXT_S)
        Slow.may_go_on.set()
        assert [type(error) for error in found] == [LocalProtocolError]


def test_asyncio_awaits_many_requests_at_once(served, network):
    """More requests than may be on their way get their own answers; a stream takes both kinds of iterables."""
    deployment, hosts, session = served
    given = batches(session, 3 * MAX_IN_FLIGHT)
    session.close()

    async def arriving():
        for batch in given[:10]:
            await asyncio.sleep(0)
            yield batch

    async def run():
        async with sepnas.AsyncSession(deployment, hosts, in_flight=MAX_IN_FLIGHT) as devices:
            every = await asyncio.gather(*map(devices.infer, given))
            streamed = [logits async for logits in devices.stream(arriving(), in_flight=4)]
            plainly = [logits async for logits in devices.stream(given[:10])]
            names = await devices.classify(given[2])
            return every, streamed, plainly, names

    every, streamed, plainly, names = asyncio.run(run())
    for logits, batch in zip((*every, *streamed, *plainly), (*given, *given[:10], *given[:10]), strict=True):
        np.testing.assert_allclose(logits, whole_logits(network, batch), rtol=0, atol=1e-4)
    assert names == [f"class {k}" for k in every[2].argmax(axis=1)]


def test_asyncio_deadlines_and_cancelled_tasks(exported, network):
    """A late request is an error, a cancelled task is cancelled, and the session goes on behind both."""

    async def run(hosts):
        async with AsyncSession(exported, hosts) as devices:
            quick, slow = (random_batch(devices.session.manifest, size) for size in (1, 3))
            with pytest.raises(DeadlineError):
                await devices.infer(slow, 0.1)
            task = asyncio.create_task(devices.infer(slow))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            Slow.may_go_on.set()
            with pytest.raises(RemoteError, match="a batch of four"):
                await devices.infer(random_batch(devices.session.manifest, 4))
            np.testing.assert_allclose(await devices.infer(quick), whole_logits(network, quick), rtol=0, atol=1e-4)
        with pytest.raises(LocalProtocolError, match="the session is closed"):
            await devices.infer(quick)

    Slow.may_go_on.clear()
    with threads(exported, engine=Slow) as hosts:
        asyncio.run(run(hosts))
    with pytest.raises(LocalProtocolError, match="use `async with`"):
        AsyncSession(exported).session  # noqa: B018


def test_a_bench_measures_a_stream(exported):
    """Throughput of a stream stands beside the latency, which is of one request after the other."""
    with worker_processes(exported, 2, "onnxruntime") as (_, hosts), Session(exported, hosts) as session:
        found = bench(session, random_batch(session.manifest, 2), requests=20, warmup=2, in_flight=3)
    assert found.stream is not None
    assert found.stream.in_flight == 3
    assert found.stream.samples_per_s > 0
    assert found.payload_bytes_per_request == found.payload_bytes_predicted
    assert found.input_bytes_per_request == found.input_bytes_predicted > 0
    assert found.total_bytes_per_request == found.total_bytes_predicted > found.input_bytes_predicted


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_a_cancelled_request_leaves_the_others_their_letters(order, cancelled):
    """Whatever is cancelled in whatever order, a request that was not keeps its letters, and one that was gets none."""
    box = Mailbox()
    for request in order:
        box.put(request, 0, bytes([request]))
    for request in (each for each in order if each in cancelled):
        box.cancel(request)
        box.put(request, 1, b"late")
    for request in range(1, 9):
        assert box.is_over(request) == (request in cancelled)
        if request in cancelled:
            with pytest.raises(DeadlineError):
                box.take(request, 0, time.monotonic() + NEXT_S)
        else:
            box.begin(request)
            assert box.take(request, 0, time.monotonic()).payload == bytes([request])


def test_cancelling_wakes_who_waits():
    """Who waits for a message of the request stops at once; there is no end of requests that can be cancelled."""
    box = Mailbox()
    found: list[Exception] = []

    def wait() -> None:
        try:
            box.take(1, 0, time.monotonic() + 60)
        except DeadlineError as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    for request in range(1, 4 * MAX_REQUESTS_AHEAD):
        box.cancel(request)
    waiting.join(NEXT_S)
    assert len(found) == 1
    assert not box.is_over(4 * MAX_REQUESTS_AHEAD)
