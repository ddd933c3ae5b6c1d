"""Deployments of several plans: requests choose, and devices switch without loading anything."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from sepnas.deployment.manifest import MANIFEST_NAME, Manifest
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import load_manifest
from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import emulated_cluster, open_session, read_setting
from sepnas.errors import DeadlineError, HandshakeError, RemoteError, RemoteProtocolError, SpecError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.onnx_engine import OnnxEngine
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.protocol.events import Data, Failed, Request
from sepnas.runtime.worker.mailbox import Mailbox
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.hosts import Hosts
from tests.helpers_plans import FEW, NAMES, SILENT, export_plans, network_under
from tests.helpers_runtime import SOON_S, eventually, whole_logits, worker_processes, worker_threads
from tests.runtime.test_hostile import hostile_client

ENGINES = {"torch": TorchEngine, "onnxruntime": OnnxEngine}
SHAPE = (2, 1, 8, 8)


@pytest.fixture(scope="module")
def deployment(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` under three plans, for both engines; not to be changed."""
    folder = tmp_path_factory.mktemp("plans") / "deployment"
    export_plans(network, folder, ("torch", "onnxruntime"))
    return folder


@pytest.fixture(scope="module")
def wanted(network: SeparableNetwork) -> dict[str, np.ndarray]:
    """The whole network's answers under each plan."""
    return {name: whole_logits(network_under(network, name), images()) for name in NAMES}


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


def assert_answers(session: Session, wanted: dict[str, np.ndarray], rounds: int = 3) -> None:
    """Requests take turns between the plans; each is answered as the whole network does under its plan."""
    for name in NAMES * rounds:
        found = session.infer(images(), plan=name)
        np.testing.assert_allclose(found, wanted[name], rtol=1e-5, atol=1e-5 * np.abs(wanted[name]).max())


class OpenedFiles:
    """The files that this process opens below a folder; an audit hook stays, so one serves all tests."""

    below = ""
    names: ClassVar[list[str]] = []

    @classmethod
    def note(cls, event: str, arguments: tuple[object, ...]) -> None:
        if cls.below and event == "open" and str(arguments[0]).startswith(cls.below):
            cls.names.append(str(arguments[0]))


@pytest.fixture(scope="module")
def opened() -> Iterator[type[OpenedFiles]]:
    sys.addaudithook(OpenedFiles.note)
    yield OpenedFiles
    OpenedFiles.below = ""


@pytest.mark.parametrize("engine", ENGINES)
def test_devices_switch_between_plans_from_one_request_to_the_next(deployment, wanted, engine):
    """In real processes each plan gives the whole network's answers with its own statistics, int8 messages included."""
    assert np.abs(wanted["default"] - wanted[FEW]).max() > 1e-3
    assert np.abs(wanted[FEW] - wanted[SILENT]).max() > 1e-3
    with (
        worker_processes(deployment, 2, engine) as (_, hosts),
        Session(deployment, hosts, timeout_s=SOON_S) as session,
    ):
        assert session.plans == NAMES
        np.testing.assert_array_equal(session.infer(images()), session.infer(images(), plan="default"))
        assert_answers(session, wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_loaded_when_the_plan_changes(deployment, wanted, engine, opened, monkeypatch):
    """All segments are loaded at start: later no file of the deployment is opened and no engine made."""
    made = []

    def make(shard, threads):
        made.append(shard.rank)
        return ENGINES[engine](shard, threads)

    with (
        worker_threads(deployment, engine=make) as (_, hosts),
        Session(deployment, hosts, timeout_s=SOON_S) as session,
    ):
        opened.below = str(deployment)
        opened.names.clear()
        assert_answers(session, wanted)
        opened.below = ""
    assert made == [0, 1]
    assert not opened.names


def test_bytes_predicted_are_bytes_counted_for_each_plan(deployment):
    """What devices send each other under a plan is what the manifest and the plan's file say."""
    manifest = load_manifest(deployment)
    with worker_threads(deployment) as (_, hosts), Session(deployment, hosts, timeout_s=SOON_S) as session:
        for name in NAMES:
            before = session.counters()
            session.infer(images(), plan=name)
            after = session.counters()
            plan = deployed_plan(deployment, name)
            assert manifest.plan(name).payload_bytes == plan.payload_bytes()
            assert after.payload_bytes - before.payload_bytes == plan.payload_bytes(len(images()))
            assert after.wire_bytes - before.wire_bytes == plan.wire_bytes(len(images()))


def test_requests_of_several_plans_are_on_their_way_at_once(deployment, wanted):
    """Threads of one session that use different plans get each their own plan's answers; streams too."""
    with worker_threads(deployment) as (_, hosts), Session(deployment, hosts, timeout_s=SOON_S) as session:

        def ask(name: str) -> np.ndarray:
            [*found] = session.stream([images()] * 8, in_flight=3, plan=name)
            assert all(np.array_equal(each, found[0]) for each in found)
            return found[0]

        with ThreadPoolExecutor(3) as pool:
            for name, found in zip(NAMES, pool.map(ask, NAMES), strict=True):
                np.testing.assert_allclose(found, wanted[name], rtol=1e-5, atol=1e-5 * np.abs(wanted[name]).max())


def test_a_trace_names_the_plan_of_each_request(deployment):
    """The steps of a request are those of its plan."""
    with worker_threads(deployment) as (_, hosts), Session(deployment, hosts, timeout_s=SOON_S) as session:
        for name in NAMES:
            session.infer(images(), plan=name)
        records = session.trace(last=3).requests
    assert [record.plan for record in records] == list(NAMES)
    for record in records:
        programs = deployed_plan(deployment, record.plan).programs
        assert {each.rank: len(each.steps) for each in record.devices} == {
            rank: len(program) for rank, program in enumerate(programs) if program
        }


@pytest.mark.slow
def test_a_lost_device_is_done_without_under_each_plan(deployment, network):
    """A session that degrades answers as the network does without that device; a plan that needs it not is complete."""
    with (
        worker_processes(deployment, 2) as (workers, hosts),
        Session(deployment, hosts, timeout_s=SOON_S, on_missing="degrade") as session,
    ):
        workers[1].process.kill()
        eventually(lambda: session.lost())
        for name in NAMES:
            answer = session.ask(images(), plan=name)
            whole, outage = network_under(network, name), Outage.of([1], 2, len(images()))
            with torch.inference_mode():
                expected = whole(torch.from_numpy(images()), outage=outage).numpy()
            np.testing.assert_allclose(answer.logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
            assert answer.complete == (name == SILENT)


def test_a_session_connects_the_devices_of_its_plans(deployment, wanted):
    """A session for one plan needs only that plan's devices, and takes requests of no other."""
    with worker_threads(deployment) as (workers, hosts):
        workers[1].stop()
        with Session(deployment, hosts, timeout_s=SOON_S, plans=[SILENT]) as session:
            np.testing.assert_allclose(session.infer(images()), wanted[SILENT], rtol=1e-4, atol=1e-5)
            with pytest.raises(SpecError, match=f"this session has no plan 'default'; its plans are {SILENT}"):
                session.infer(images(), plan="default")


def test_an_unknown_plan_is_named(deployment):
    """A plan that the deployment does not have is refused before anything is sent, with the allowed names."""
    with pytest.raises(
        SpecError, match=f"deployment 'tiny' has no plan 'fast'; its plans are default, {FEW}, {SILENT}"
    ):
        Session(deployment, plans=["fast"])
    with pytest.raises(SpecError, match="`plans` is empty"):
        Session(deployment, plans=[])
    with worker_threads(deployment) as (_, hosts), Session(deployment, hosts, timeout_s=SOON_S) as session:
        for begin in (session.infer, session.ask, session.classify):
            with pytest.raises(SpecError, match="this session has no plan 'fast'"):
                begin(images(), plan="fast")
        with pytest.raises(SpecError, match="this session has no plan 'fast'"):
            session.stream([images()], plan="fast")
        assert session.infer(images()).shape == (2, 5)


# -- hostile or mistaken peers


@pytest.mark.parametrize("name", ["", "none", "../device0", "Default", "a" * 64, "\x00\x1b[2J", "ﬀ"])
def test_a_request_of_an_unknown_plan_fails_alone(deployment, name):
    """A client that names any text as its plan is told so, and its next request is served."""
    with worker_threads(deployment) as (workers, hosts), hostile_client(deployment, hosts) as (channels, inputs):
        deadline = time.monotonic() + SOON_S
        message, answer = inputs[0], load_manifest(deployment).plan(SILENT).outputs[0].pieces[0]
        channels[0].connection.expect({answer.tag: 20})
        for number, plan in ((1, name), (2, SILENT)):
            channels[0].send_now(Request(request=number, batch=1, deadline_ms=60_000, plan=plan), deadline)
            channels[0].send_now(Data(number, message.tag, bytes(message.payload_bytes())), deadline)
        first, second = channels[0].next_event(deadline), channels[0].next_event(deadline)
        assert isinstance(first, Failed)
        assert (first.request, first.code) == (1, "plan")
        assert f"allowed are default, {FEW}, {SILENT}" in first.message
        assert all(character.isprintable() for character in first.message)
        assert isinstance(second, Data)
        assert second.request == 2
        eventually(lambda: workers[0].stats.served == 1)


def test_an_overlong_name_is_no_frame(deployment):
    """A plan's name beyond its bound ends the connection that it came on."""
    with worker_threads(deployment) as (workers, hosts), hostile_client(deployment, hosts) as (channels, _):
        session = workers[0]._slot.session
        text = Request.model_construct(request=1, batch=1, deadline_ms=1, without=(), plan="a" * 65)
        with pytest.raises(Exception, match="at most 64"):
            channels[0].send_now(text, time.monotonic() + SOON_S)
        assert session is workers[0]._slot.session


def test_a_plan_of_another_export_is_refused(deployment, tmp_path):
    """Client and device must agree on what a plan is: other steps or weights under one name are a HandshakeError."""
    manifest = load_manifest(deployment)
    plans = {**manifest.plans, FEW: manifest.plans[FEW].model_copy(update={"digest": "0" * 64})}
    client = tmp_path / "client"
    shutil.copytree(deployment, client, ignore=shutil.ignore_patterns("device*", "authority", "plans"))
    changed: Manifest = manifest.model_copy(update={"plans": plans}).seal()
    (client / MANIFEST_NAME).write_text(changed.dumps())
    with worker_threads(deployment) as (_, hosts):
        says = f"device [01] has another plan '{FEW}': its folder and the client's are of different exports"
        with pytest.raises(HandshakeError, match=says):
            Session(client, hosts, timeout_s=SOON_S)
        with Session(client, hosts, timeout_s=SOON_S, plans=["default", SILENT]) as session:
            assert session.infer(images(), plan=SILENT).shape == (2, 5)


def test_a_message_of_another_plan_is_no_message_of_the_request():
    """A tag may be in several plans; which source and length are due says the plan of the request."""

    def fits(source: int, tag: int, length: int) -> bool:
        return (source, tag, length) == (1, 7, 40)

    box = Mailbox()
    assert box.announce(1, fits)
    with pytest.raises(RemoteProtocolError, match="message 7 of 80 bytes is none that device 1 sends"):
        box.put(1, 7, bytes(80), source=1)
    with pytest.raises(RemoteProtocolError, match="none that device 2 sends by the plan of request 1"):
        box.put(1, 7, bytes(40), source=2)
    box.put(1, 7, bytes(40), source=1)
    box.put(2, 7, bytes(80), source=1)  # its plan is not known yet
    box.put(3, 7, bytes(40), source=1)
    assert not box.announce(2, fits)
    assert box.announce(3, fits)
    assert box.kept_bytes == 80
    with pytest.raises(DeadlineError):
        box.take(2, 7, deadline=0)


def test_devices_that_hear_of_different_plans_do_not_mix_them(deployment):
    """A client that names other plans to two devices gets an error, not an answer that is half one and half another."""
    with worker_threads(deployment) as (_, hosts), hostile_client(deployment, hosts) as (channels, inputs):
        deadline = time.monotonic() + SOON_S
        for rank, plan in enumerate(("default", FEW)):
            channels[rank].send_now(Request(request=1, batch=1, deadline_ms=2000, plan=plan), deadline)
            message = inputs[rank]
            channels[rank].send_now(Data(1, message.tag, bytes(message.payload_bytes())), deadline)
        assert isinstance(channels[0].next_event(deadline), Failed)


def test_threads_of_two_plans_end_with_the_session(deployment):
    """Closing a session while requests of several plans run leaves nothing behind, and the devices are free again."""
    with worker_threads(deployment) as (_, hosts):
        session = Session(deployment, hosts, timeout_s=SOON_S)
        stop = threading.Event()

        def ask(name: str) -> None:
            while not stop.is_set():
                try:
                    session.infer(images(), plan=name)
                except Exception:
                    return

        threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES]
        for thread in threads:
            thread.start()
        session.close()
        stop.set()
        for thread in threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
        with Session(deployment, hosts, timeout_s=SOON_S) as other:
            assert other.infer(images(), plan=FEW).shape == (2, 5)


def test_remote_errors_of_a_plan_do_not_end_the_session(deployment, monkeypatch):
    """A device that cannot compute under one plan still computes under the others."""

    class Broken(TorchEngine):
        def run(self, segment, inputs):
            if segment.endswith(f"@{FEW}"):
                raise ValueError("out of order")
            return super().run(segment, inputs)

    monkeypatch.setattr("sepnas.runtime.worker.server._warm_up", lambda context: None)
    with (
        worker_threads(deployment, engine=Broken) as (_, hosts),
        Session(deployment, hosts, timeout_s=SOON_S) as session,
    ):
        with pytest.raises(RemoteError, match="out of order"):
            session.infer(images(), plan=FEW)
        assert session.infer(images(), plan=SILENT).shape == (2, 5)


def test_asyncio_requests_choose_plans_too(deployment, wanted):
    """An asynchronous session has the same choice, also for requests that are on their way together."""

    async def ask(hosts: Hosts) -> None:
        async with AsyncSession(deployment, hosts, timeout_s=SOON_S) as session:
            found = await asyncio.gather(*(session.infer(images(), plan=name) for name in NAMES))
            streamed = [each async for each in session.stream([images()] * 3, plan=FEW)]
            with pytest.raises(SpecError, match="this session has no plan 'fast'"):
                await session.ask(images(), plan="fast")
            assert await session.classify(images(), plan=SILENT)
        for name, each in (*zip(NAMES, found, strict=True), *((FEW, each) for each in streamed)):
            np.testing.assert_allclose(each, wanted[name], rtol=1e-5, atol=1e-5 * np.abs(wanted[name]).max())

    with worker_threads(deployment) as (_, hosts):
        asyncio.run(ask(hosts))


@pytest.mark.slow
def test_an_emulated_cluster_runs_the_plan_that_is_named(deployment, tmp_path):
    """Devices take as long as the cluster's under the named plan, and serve no other."""
    boards = tuple(Device(name=f"d{rank}", flops_per_s=1e9, memory_bytes=1 << 30) for rank in range(2))
    link = Link(bandwidth_bytes_per_s=1e8)
    path = Cluster(devices=boards, links=(link,), client_link=link).save(tmp_path / "cluster.yaml")
    for name in NAMES:
        setting = read_setting(deployment, path, "process", 1, 0.0, insecure=False, name=name)
        with emulated_cluster(setting) as running, open_session(setting, running, SOON_S) as session:
            found = run_bench(setting, session, 5, 1)
            assert session.plans == (name,)
        assert found.result.payload_bytes_per_request == deployed_plan(deployment, name).payload_bytes()
