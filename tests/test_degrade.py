"""Answers without a device: killed, frozen and slow workers, and what the answers are then."""

from __future__ import annotations

import itertools
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepnas.errors import DeadlineError, PeerLostError, RemoteError, SpecError
from sepnas.nets.separable import SeparableResNeXt
from sepnas.plan.build import build_plan
from sepnas.plan.steps import CLIENT, Recv
from sepnas.runtime.bench import random_batch
from sepnas.runtime.engines import TorchEngine
from sepnas.runtime.session import Session
from sepnas.runtime.tolerance import Patience, optional_tensors
from sepnas.spec.architecture import Architecture
from tests.helpers_runtime import (
    export_tiny,
    lively_network,
    threads,
    tiny_architecture,
    transfer,
    whole_logits,
    worker_processes,
)

POINTS = [
    {"after": 0, "transfers": [transfer(0, 1, "int8", 1, 0.5), transfer(1, 0, "fp16"), transfer(2, 0, "fp16")]},
    {"after": 2, "transfers": [transfer(1, 0, "int8", 1), transfer(2, 1, "fp32"), transfer(0, 2, "int8", 1)]},
    {"after": 3, "transfers": [transfer(2, 0, "int8"), transfer(0, 2)]},
]
SOON_S = 10.0
"""Longer than anything that does not hang takes."""


class Deployed:
    """A network and its deployment, and what it answers without some of its devices."""

    def __init__(self, folder, readout: str) -> None:
        self.folder = folder / readout
        self.network = lively_network(tiny_architecture(POINTS, readout))
        export_tiny(self.network, self.folder, ("torch", "onnxruntime"), on_missing="degrade")

    def logits_without(self, lost: set[int], x_bchw: np.ndarray) -> np.ndarray:
        """Of the whole network whose policy never heard of them: the mean of those that are left, or the reader's."""
        architecture = self.network.architecture
        policy = architecture.policy.model_dump()
        for point in policy["points"]:
            point["transfers"] = [t for t in point["transfers"] if not {t["source"], t["destination"]} & lost]
        policy["points"] = [point for point in policy["points"] if point["transfers"]]
        readers = [0] if policy["readout"]["kind"] == "device" else [r for r in range(3) if r not in lost]
        found = []
        for reader in readers:
            alone = policy | {"readout": {"kind": "device", "device": reader}}
            own = SeparableResNeXt(Architecture.from_data(architecture.to_data() | {"policy": alone})).eval()
            own.load_state_dict(self.network.state_dict(), strict=False)
            found.append(whole_logits(own, x_bchw))
        return np.mean(found, axis=0, dtype=np.float32)

    def check(self, answer, lost: set[int], x_bchw: np.ndarray) -> None:
        np.testing.assert_allclose(answer.logits, self.logits_without(lost, x_bchw), rtol=0, atol=2e-3)

    @contextmanager
    def served(self, **options):
        started = worker_processes(self.folder, 3, "onnxruntime")
        with started as (workers, hosts), Session(self.folder, hosts, **options) as session:
            self.check(session.ask(random_batch(session.manifest, 2)), set(), random_batch(session.manifest, 2))
            yield [worker.process for worker in workers], session


@pytest.fixture(scope="module")
def mean(tmp_path_factory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("degrade"), "mean")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("degrade"), "device")


def thaw(process) -> None:
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("lost", [{1}, {2}, {0}, {1, 2}, {0, 2}])
def test_killed_devices_are_done_without(mean, lost):
    """The answer is that of the network without their messages and logits, marked; also where the reader is lost."""
    with mean.served(deadline_s=2.0) as (processes, session):
        x_bchw = random_batch(session.manifest, 3, seed=1)
        for rank in lost:
            processes[rank].kill()
            processes[rank].wait()
        first = session.ask(x_bchw)
        assert not first.complete
        # by now the loss is known: nobody waits, and the same is missing for all
        answers = [session.ask(x_bchw), *session.answers(itertools.repeat(x_bchw, 5), in_flight=3)]
        for answer in answers:
            assert (set(answer.without), answer.missing) == (lost, ())
            mean.check(answer, lost, x_bchw)
        start = time.monotonic()
        session.infer(x_bchw)
        assert time.monotonic() - start < 1.0
        assert session.counters().requests >= 7


def test_a_frozen_device_is_done_without_until_it_answers_again(mean):
    """The first answer is there by the deadline and says what was late; then nobody waits for it; thawed it is back."""
    with mean.served(deadline_s=1.0) as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        processes[1].send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            answer = session.ask(x_bchw)
            assert time.monotonic() - start < 1.0 + SOON_S
            assert {missing.source for missing in answer.missing} == {1}
            mean.check(answer, {1}, x_bchw)
            later = session.ask(x_bchw)
            assert (later.without, later.missing) == ((1,), ())
            mean.check(later, {1}, x_bchw)
        finally:
            thaw(processes[1])
        limit = time.monotonic() + SOON_S
        while not (answer := session.ask(x_bchw, 5.0)).complete:
            assert time.monotonic() < limit
            time.sleep(0.05)
        mean.check(answer, set(), x_bchw)


def test_a_frozen_reader_is_answered_for(mean):
    """The others' own logits are the answer when the reader does not answer in time."""
    with mean.served(deadline_s=1.0) as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        processes[0].send_signal(signal.SIGSTOP)
        try:
            assert 0 in session.ask(x_bchw).without
            later = session.ask(x_bchw)
            assert later.without == (0,)
            mean.check(later, {0}, x_bchw)
        finally:
            thaw(processes[0])


def test_a_reader_alone_with_the_classifier_cannot_be_done_without(single):
    """Others may be lost; the only reader not: frozen it is a deadline, killed a lost device, at once and again."""
    with single.served(deadline_s=0.5) as (processes, session):
        x_bchw = random_batch(session.manifest, 2, seed=1)
        processes[2].kill()
        processes[2].wait()
        session.ask(x_bchw)
        single.check(session.ask(x_bchw), {2}, x_bchw)
        processes[0].send_signal(signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises(DeadlineError):
                    session.ask(x_bchw)
        finally:
            thaw(processes[0])
        assert session.ask(x_bchw, 5.0).without == (2,)
        processes[0].kill()
        processes[0].wait()
        for _ in range(2):
            with pytest.raises(PeerLostError, match="device 0"):
                session.ask(x_bchw)


def test_all_devices_lost_is_an_error(mean):
    """Without any device there is no answer, and the error names one of them."""
    with mean.served(deadline_s=1.0) as (processes, session):
        for process in processes:
            process.kill()
            process.wait()
        for _ in range(2):
            with pytest.raises(PeerLostError, match="device"):
                session.ask(random_batch(session.manifest, 1))


def test_a_session_may_be_stricter_than_its_deployment(mean):
    """``strict`` overrides what was said at the export: a lost device is an error."""
    with mean.served(on_missing="strict", deadline_s=2.0) as (processes, session):
        processes[1].kill()
        with pytest.raises(PeerLostError, match="device 1"):
            session.infer(random_batch(session.manifest, 1))
    with pytest.raises(SpecError, match="`on_missing` must be one of strict, degrade, got 'lenient'"):
        Session(mean.folder, on_missing="lenient")


class Late(TorchEngine):
    """Device 1 of a batch of three: slower than the deadline; of four: broken."""

    def __init__(self, shard, threads=1) -> None:
        super().__init__(shard, threads)
        self.rank = shard.rank

    def run(self, segment, inputs):
        if self.rank == 1 and len(inputs[0]) == 3:
            time.sleep(0.6)
        if self.rank == 1 and len(inputs[0]) == 4:
            raise RuntimeError("a batch of four")
        return super().run(segment, inputs)


def test_late_messages_are_done_without(mean):
    """A device that is too slow is left out of that answer, and takes part again in the next."""
    with threads(mean.folder, 3, engine=Late) as hosts, Session(mean.folder, hosts, deadline_s=5.0) as session:
        quick, slow = (random_batch(session.manifest, size, seed=1) for size in (2, 3))
        mean.check(session.ask(quick), set(), quick)
        answer = session.ask(slow, 0.5)
        assert {missing.source for missing in answer.missing} == {1}
        mean.check(answer, {1}, slow)
        limit = time.monotonic() + SOON_S
        while not (answer := session.ask(quick)).complete:
            assert time.monotonic() < limit
            time.sleep(0.1)
        mean.check(answer, set(), quick)


def test_a_failing_device_is_done_without(mean, single):
    """What fails on one device is that device's loss; what fails on the only reader is the request's."""
    with threads(mean.folder, 3, engine=Late) as hosts, Session(mean.folder, hosts, deadline_s=0.5) as session:
        broken = random_batch(session.manifest, 4, seed=1)
        answer = session.ask(broken)
        assert {missing.source for missing in answer.missing} == {1}
        mean.check(answer, {1}, broken)

    class Reader(Late):
        def __init__(self, shard, threads=1) -> None:
            super().__init__(shard, threads)
            self.rank = 1 - shard.rank

    with threads(single.folder, 3, engine=Reader) as hosts, Session(single.folder, hosts) as session:
        with pytest.raises(RemoteError, match=r"device 0.*a batch of four"):
            session.ask(random_batch(session.manifest, 4))
        single.check(session.ask(random_batch(session.manifest, 2)), set(), random_batch(session.manifest, 2))


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
