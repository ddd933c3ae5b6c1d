"""Inputs that are not square and not images, and outputs that are no classes, one of them from two devices."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import queue
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.simulator import simulate
from sepnas.cost.stream import simulate_stream
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import verify_deployment
from sepnas.errors import DataError, ExchangeError, PeerLostError, RemoteError
from sepnas.plan.liveness import devices_used, prune
from sepnas.plan.validation import check_plan
from sepnas.report.from_trace import measured_timeline
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.bench import bench, random_batch
from sepnas.runtime.client.images import normalise
from sepnas.runtime.client.session import Session
from sepnas.runtime.protocol.connection import HEADER, KINDS, MAGIC
from sepnas.runtime.protocol.events import PROTOCOL_VERSION, Data
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.hosts import Hosts
from tests.helpers_ports import (
    FACTS,
    TwoByTwo,
    deploy_two_by_two,
    inputs_of,
    plan_of,
    two_by_two,
    whole_outputs,
)
from tests.helpers_runtime import SOON_S, eventually, threads, worker_processes
from tests.runtime.service.test_serve import Client, serving
from tests.runtime.test_hostile import hostile_devices

NPZ = "application/x-npz"
DATA_KIND = KINDS[Data]
ENGINES = ["torch", "onnxruntime"]


@pytest.fixture(scope="module")
def network() -> TwoByTwo:
    return two_by_two()


@pytest.fixture(scope="module")
def deployment(network: TwoByTwo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deploy_two_by_two(network, tmp_path_factory.mktemp("ports") / "deployment")


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest, deployment: Path) -> Iterator[Hosts]:
    """Where worker processes of each engine listen."""
    with worker_processes(deployment, 2, request.param) as (_, hosts):
        yield hosts


def check(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max()


def test_the_plan_is_one(network: TwoByTwo, deployment: Path) -> None:
    """It is valid, nothing of it is dead, it comes back from the deployment, and the manifest states its ports."""
    plan = plan_of(network)
    check_plan(plan)
    assert devices_used(plan) == (0, 1)
    assert prune(plan).programs == plan.programs
    assert deployed_plan(deployment) == plan
    manifest = verify_deployment(deployment)
    assert manifest.network == FACTS
    assert manifest.network.scores is None


def test_devices_compute_what_the_whole_network_computes(served: Hosts, network: TwoByTwo, deployment: Path) -> None:
    """Worker processes of each engine answer with both outputs, whatever the form of the inputs."""
    inputs = inputs_of(3)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 1, 6, 10), dtype=np.uint8)
    shown = {**inputs_of(2, seed=2), "image": pixels}
    with Session(deployment, served, timeout_s=SOON_S) as session:
        check(session.infer(inputs), whole_outputs(network, inputs))
        answer = session.ask(shown)
        streamed = list(session.stream([inputs, shown] * 2))
    image = FACTS.inputs["image"].image
    assert image is not None
    wanted = whole_outputs(network, {**shown, "image": normalise(pixels, image)})
    check(answer.outputs, wanted)
    assert (answer.complete, answer.without, answer.missing) == (True, (), ())
    for found in streamed[1::2]:
        check(found, wanted)
    with pytest.raises(DataError, match="names no classes; its outputs are maps, embedding"):
        _ = answer.logits


def test_asyncio_awaits_all_outputs(served: Hosts, network: TwoByTwo, deployment: Path) -> None:
    """Many requests at once through one asynchronous session are each answered whole."""
    batches = [inputs_of(1 + seed % 3, seed) for seed in range(6)]

    async def ask() -> list[object]:
        async with AsyncSession(deployment, served, timeout_s=SOON_S) as session:
            with pytest.raises(DataError, match="names no classes"):
                await session.classify(batches[0])
            return await asyncio.gather(*(session.infer(batch) for batch in batches))

    for batch, found in zip(batches, asyncio.run(ask()), strict=True):
        check(found, whole_outputs(network, batch))


def test_bytes_and_times_are_those_of_all_outputs(deployment: Path, network: TwoByTwo) -> None:
    """Counters, benches and traces hold every piece; a request is answered when the last piece is there."""
    plan = plan_of(network)
    with threads(deployment) as hosts, Session(deployment, hosts, timeout_s=SOON_S) as session:
        result = bench(session, random_batch(session.manifest, 2), requests=3, warmup=1, in_flight=2)
        trace = session.trace(last=3)
    assert result.payload_bytes_per_request == result.payload_bytes_predicted == plan.payload_bytes(2)
    answered = {link.source: link.sent.payload_bytes for link in result.counters.links if link.destination == -1}
    assert answered == {0: 4 * 2 * 4 * 120, 1: 4 * 2 * 4 * (120 + 5)}
    for request in trace.requests:
        sends = [step for device in request.devices for step in device.steps if step.peer == -1 and step.step == "send"]
        assert {step.tag for step in sends} == {3, 6, 7}
        assert len(request.arrived_s) == 2
        assert all(request.sent_s < arrived_s <= request.answered_s for arrived_s in request.arrived_s.values())
        found = [each for each in measured_timeline(request).activities if each.kind == "transfer" and each.peer == -1]
        assert {each.tag for each in found} == {3, 6, 7}


def test_latency_is_that_of_the_last_piece(network: TwoByTwo) -> None:
    """Simulated, an answer is there when its slowest device has sent its last piece, alone and in a stream."""
    plan = plan_of(network)

    def cluster(*speeds: float) -> Cluster:
        devices = tuple(Device(name=f"d{i}", flops_per_s=speed, memory_bytes=1 << 30) for i, speed in enumerate(speeds))
        link = Link(bandwidth_bytes_per_s=1e6)
        return Cluster(devices=devices, links=(link,), client_link=link)

    even, slow = simulate(plan, cluster(1e6, 1e6)), simulate(plan, cluster(1e3, 1e6))
    assert slow.latency_s > even.latency_s
    assert slow.latency_s >= slow.makespan_s
    one = simulate_stream(plan, cluster(1e3, 1e6), requests=4, in_flight=1)
    assert one.latencies_s == pytest.approx([slow.latency_s] * 4)
    assert simulate_stream(plan, cluster(1e3, 1e6), requests=4, in_flight=2).throughput_per_s >= one.throughput_per_s


# -- what is asked


WRONG = {
    "needed: 'image' .CHW 1x6x10., 'sound' .CTF 2x7x3.": lambda good: good["image"],
    "input 'sound' is missing; the network's inputs are": lambda good: {"image": good["image"]},
    "has no input 'smell'; its inputs are 'image'": lambda good: {**good, "smell": good["sound"]},
    r"input 'image': a batch must have the shape \(1\.\.\d+, 1, 6, 10\), got \(2, 1, 10, 6\)": lambda good: {
        **good,
        "image": good["image"].transpose(0, 1, 3, 2),
    },
    r"input 'sound': a batch must have the shape .*got \(\)": lambda good: {**good, "sound": 1.0},
    "input 'sound': a batch must be float32, got float64": lambda good: {**good, "sound": good["sound"].astype("f8")},
    "input 'sound': a batch must be float32, got uint8": lambda good: {**good, "sound": good["sound"].astype("u1")},
    r"float32 \(normalised\) or uint8 \(images\), got int16": lambda good: {
        **good,
        "image": good["image"].astype("i2"),
    },
    "same number of samples, got 1 of 'image', 2 of 'sound'": lambda good: {**good, "image": good["image"][:1]},
    r"input 'sound': sample 1 of the batch has nan at \(0, 0, 0\)": lambda good: {**good, "sound": _with_nan(good)},
}


def _with_nan(good: dict[str, np.ndarray]) -> np.ndarray:
    sound = good["sound"].copy()
    sound[1, 0, 0, 0] = np.nan
    return sound


def test_wrong_inputs_are_named(deployment: Path) -> None:
    """Each mistake is told with the input's name and what is allowed, and the session goes on."""
    good = inputs_of(2)
    with threads(deployment) as hosts, Session(deployment, hosts, timeout_s=SOON_S) as session:
        for says, change in WRONG.items():
            with pytest.raises(DataError, match=says):
                session.infer(change(good))
        assert session.infer(good).keys() == {"maps", "embedding"}


# -- devices that fail


def test_an_output_in_pieces_needs_all_its_devices(deployment: Path, network: TwoByTwo) -> None:
    """Even a session that degrades cannot answer without a device that holds a piece, and says which one is lost."""
    inputs = inputs_of(2)
    with (
        worker_processes(deployment, 2, "onnxruntime") as (workers, hosts),
        Session(deployment, hosts, timeout_s=SOON_S, on_missing="degrade") as session,
    ):
        check(session.infer(inputs), whole_outputs(network, inputs))
        workers[1].process.kill()
        eventually(lambda: 1 in session.lost())
        assert not session.can_answer()
        with pytest.raises(PeerLostError, match="device 1"):
            session.infer(inputs)


def frame(tag: int, payload: bytes) -> bytes:
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, DATA_KIND, tag, 1, len(payload)) + payload


def floats(count: int, value: float = 1.0) -> bytes:
    return np.full(count, value, np.float32).tobytes()


HALF_VALUES = 4 * 3 * 10
UPPER_HALF, LOWER_HALF = frame(3, floats(HALF_VALUES)), frame(6, floats(HALF_VALUES, 2.0))
VECTOR, NANS, OWN = frame(7, floats(5)), frame(7, floats(5, np.nan)), frame(4, floats(5))
HOSTILE: dict[str, tuple[list[bytes], list[bytes], type[Exception]]] = {
    "has 960 bytes; 480 were expected": ([frame(3, floats(2 * HALF_VALUES))], [LOWER_HALF, VECTOR], ExchangeError),
    "message 3 announces 476 bytes": ([frame(3, floats(HALF_VALUES - 1))], [LOWER_HALF, VECTOR], ExchangeError),
    "message 6 is not one that this peer sends": ([LOWER_HALF], [LOWER_HALF, VECTOR], ExchangeError),
    "message 4 is not one that this peer sends": ([OWN], [LOWER_HALF, VECTOR], ExchangeError),
    "for 'embedding' has numbers that are not finite": ([UPPER_HALF], [LOWER_HALF, NANS], RemoteError),
}  # fmt: skip


@pytest.mark.parametrize("says", HOSTILE)
def test_a_device_that_sends_something_else_is_named(says: str, deployment: Path) -> None:
    """A wrong size, a tag of another device, a message between devices, and NaN are typed errors, never values."""
    first, second, kind = HOSTILE[says]
    with asked_of(deployment, {0: first, 1: second}) as ask, pytest.raises(kind, match=says):
        ask()


def test_an_output_that_comes_twice_counts_once(deployment: Path) -> None:
    """The first message of a piece is the answer; the same again, with other values, changes nothing."""
    twice = [UPPER_HALF, frame(3, floats(HALF_VALUES, 9.0))]
    with asked_of(deployment, {0: twice, 1: [LOWER_HALF, VECTOR]}) as ask:
        outputs = ask().outputs
    assert (outputs["maps"][:, :, :3] == 1).all()
    assert (outputs["maps"][:, :, 3:] == 2).all()
    assert outputs["embedding"].tolist() == [[1.0] * 5]


@contextmanager
def asked_of(deployment: Path, frames: dict[int, list[bytes]]):
    """Asks devices that answer with these bytes, device 0 first."""
    ports: dict[int, int] = {}
    first_sent = threading.Event()

    def do(channel) -> None:
        rank = ports[channel.pipe.sock.getsockname()[1]]
        if rank:
            first_sent.wait(SOON_S)
        channel.pipe.write(b"".join(frames[rank]))
        first_sent.set()

    with hostile_devices(deployment, do) as (hosts, go), Session(deployment, hosts, timeout_s=SOON_S) as session:
        ports |= {int(hosts.address(rank).rpartition(":")[2]): rank for rank in range(2)}

        def ask():
            inbox: queue.SimpleQueue = queue.SimpleQueue()
            reply = session.begin(inputs_of(1), inbox)
            go.set()
            return session._requests.wait(reply, inbox)

        yield ask


# -- files and the command line


def infer(deployment: Path, hosts: Path, *arguments: object):
    """The command's result."""
    return CliRunner().invoke(app, ["infer", str(deployment), *map(str, arguments), "--devices", str(hosts)])


@pytest.fixture(scope="module")
def hosts_file(served: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.save(tmp_path_factory.mktemp("hosts") / "hosts.yaml")


def test_the_command_line_takes_and_writes_tensors(
    hosts_file: Path, deployment: Path, network: TwoByTwo, tmp_path: Path
) -> None:
    """`infer` reads each input by name from a file, prints a summary, and writes every output of every sample."""
    many, one = inputs_of(70), {name: array[0] for name, array in inputs_of(1, seed=3).items()}
    np.savez(tmp_path / "many.npz", **many)
    np.savez_compressed(tmp_path / "one.npz", **one)
    out = tmp_path / "out.npz"
    found = infer(deployment, hosts_file, tmp_path / "many.npz", tmp_path / "one.npz", "--out", out, "--json")
    assert not found.exception, found.exception
    rows = json.loads(found.stdout)
    assert [row["sample"] for row in rows] == [f"{tmp_path}/many.npz[{i}]" for i in range(70)] + [f"{tmp_path}/one.npz"]
    assert rows[0]["outputs"]["maps"]["shape"] == [4, 6, 10]
    wanted = whole_outputs(network, {name: np.concatenate((many[name], one[name][None])) for name in many})
    with np.load(out, allow_pickle=False) as written:
        check(dict(written), wanted)
    shown = infer(deployment, hosts_file, tmp_path / "one.npz").stdout
    assert "embedding" in shown
    assert "4x6x10" in shown


def test_images_alone_are_refused_where_they_are_not_all(hosts_file: Path, deployment: Path, tmp_path: Path) -> None:
    """An image file and a file without one of the inputs are told what the network takes; the others are answered."""
    Image.effect_noise((10, 6), 50).save(tmp_path / "image.png")
    good = inputs_of(1)
    np.savez(tmp_path / "good.npz", **good)
    np.savez(tmp_path / "half.npz", image=good["image"])
    np.save(tmp_path / "image.npy", good["image"])
    names = ("image.png", "half.npz", "image.npy", "good.npz")
    result = infer(deployment, hosts_file, *(tmp_path / name for name in names), "--json")
    lines = str(result.exception).splitlines()
    assert lines[0] == "3 of 4 files cannot be read:"
    told = ("takes no images alone", "'sound' is missing", "so a mapping is needed")
    for line, says in zip(lines[1:], told, strict=True):
        assert says in line
    assert ["error" in row for row in json.loads(result.stdout)] == [True, True, True, False]


# -- over HTTP


@pytest.fixture(scope="module")
def client(deployment: Path, hosts_file: Path) -> Iterator[Client]:
    with serving(deployment, hosts_file) as found:
        found.wait_for(200)
        yield found


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_the_service_answers_with_tensors(client: Client, network: TwoByTwo) -> None:
    """JSON and numpy's files are taken, and each is answered in either form."""
    inputs = inputs_of(1)
    sample = {name: array[0] for name, array in inputs.items()}
    wanted = whole_outputs(network, inputs)
    as_json = json.dumps({"inputs": {name: array.tolist() for name, array in sample.items()}})
    flat = json.dumps({"inputs": {name: array.ravel().tolist() for name, array in sample.items()}})
    bodies = [(as_json, "application/json"), (flat, "application/json"), (npz(sample), NPZ), (npz(inputs), NPZ)]
    for body, kind in bodies:
        status, answer = client.call("POST", "/infer", body, {"Content-Type": kind})
        assert (status, answer["complete"], answer["without"], answer["missing"]) == (200, True, [], [])
        found = {
            name: np.array(each["values"], np.float32).reshape(1, *each["shape"])
            for name, each in answer["outputs"].items()
        }
        check(found, wanted)
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SOON_S)
    with contextlib.closing(connection):
        connection.request("POST", "/infer", npz(sample), {"Content-Type": NPZ, "Accept": NPZ})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["X-Complete"]) == (200, "true")
        with np.load(io.BytesIO(answer.read()), allow_pickle=False) as found:
            check({name: found[name][None] for name in found}, wanted)


def test_the_service_says_what_it_takes(client: Client) -> None:
    """/model lists inputs and outputs; /classify is refused, and /openapi.json describes /infer."""
    model = client.call("GET", "/model")[1]
    assert model["inputs"] == [
        {"name": "image", "axes": "CHW", "shape": [1, 6, 10], "image": True},
        {"name": "sound", "axes": "CTF", "shape": [2, 7, 3], "image": False},
    ]
    assert [each["name"] for each in model["outputs"]] == ["maps", "embedding"]
    assert (model["classes"], model["resize"]) == ([], "no")
    status, answer = client.call("POST", "/classify", b"x", {"Content-Type": "image/png"})
    assert (status, answer["error"]["code"]) == (404, "no-classes")
    described = client.call("GET", "/openapi.json")[1]["paths"]["/infer"]["post"]
    assert {"application/json", NPZ, "application/x-npy", "image/png"} <= set(described["requestBody"]["content"])


HUGE_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"{}"
BAD_BODIES = {
    "no image": (b"x", "image/png", 422, "this network takes no images"),
    "other type": (b"x", "text/plain", 415, "application/x-npz"),
    "no json": (b"{", "application/json", 422, "is no JSON"),
    "no inputs": (b"[1]", "application/json", 422, '"inputs"'),
    "missing": (b'{"inputs": {"image": [1]}}', "application/json", 422, "input 'sound' is missing"),
    "ragged": (b'{"inputs": {"image": [[1], 2], "sound": [1]}}', "application/json", 422, "'image' must be numbers in"),
    "texts": (b'{"inputs": {"image": ["1"], "sound": [1]}}', "application/json", 422, "'image' must be numbers in"),
    "shape": (b'{"inputs": {"image": [1], "sound": [1]}}', "application/json", 422, "must be one sample of CHW 1x6x10"),
    "deep": (b'{"inputs": ' + b"[" * 50_000, "application/json", 422, "is no JSON"),
    "nan": (b'{"inputs": {"image": [NaN], "sound": [1]}}', "application/json", 422, "is no JSON"),
    "no file": (b"x", NPZ, 422, "neither a .npy nor a .npz"),
    "one tensor": (HUGE_HEADER, NPZ, 422, "announces a header of 2,147,483,648 bytes"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bodies_that_are_no_inputs_are_refused(name: str, client: Client) -> None:
    """Each mistake is told in the common form of errors, and the service goes on."""
    body, kind, wanted, says = BAD_BODIES[name]
    status, answer = client.call("POST", "/infer", body, {"Content-Type": kind})
    assert status == wanted
    assert says in answer["error"]["message"]
