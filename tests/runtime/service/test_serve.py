"""``sepnas serve``: real HTTP to real workers; broken images, too many requests, and devices that come and go."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sepnas.runtime.service.http_app as http_app
from sepnas.cli.main import app
from sepnas.deployment.manifest import Manifest
from sepnas.errors import ListenError
from sepnas.runtime.client.images import normalise
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.service import http_body
from sepnas.runtime.service.service import Service
from sepnas.runtime.transport.listening import listening_socket
from sepnas.spec.hosts import Hosts
from tests.helpers_plans import SILENT, export_plans
from tests.helpers_runtime import SOON_S, Gated, WorkerProcess, freeze, whole_logits, worker_processes, worker_threads

PNG = {"Content-Type": "image/png"}


class Client:
    """Asks a service; ``last`` is its last answer's head."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.last: http.client.HTTPResponse

    def call(self, method: str, path: str, body=None, headers=None, timeout_s: float = SOON_S):
        """Status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            self.last = connection.getresponse()
            return self.last.status, json.loads(self.last.read())

    def classify(self, image: bytes, headers=PNG, **options):
        return self.call("POST", "/classify", image, headers, **options)

    def wait_for(self, status: int) -> dict:
        """Until /health has this status."""
        limit = time.monotonic() + SOON_S
        while (found := self.call("GET", "/health"))[0] != status:
            assert time.monotonic() < limit, found
            time.sleep(0.02)
        return found[1]


@contextlib.contextmanager
def serving(deployment, hosts, max_image_bytes=100_000, ready=200, host_names=(), max_connections=1000, **options):
    """A service in a thread, on a free port; its devices are there (``ready`` 503: they need not be)."""
    service = Service(deployment, hosts, **{"timeout_s": SOON_S, **options})
    with listening_socket("127.0.0.1", 0) as listener:
        client = Client(listener.getsockname()[1])
        served = http_app.make_app(service, max_image_bytes, host_names)
        server = http_app.http_server(served, SOON_S, max_connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            client.wait_for(ready)
            client.service = service
            yield client
        finally:
            server.should_exit = True
            thread.join(SOON_S)
            assert not thread.is_alive()


class ServeProcess:
    """``sepnas serve`` as a process of its own."""

    def __init__(self, deployment, hosts, *options: str, listen: str = "127.0.0.1:0") -> None:
        command = [sys.executable, "-m", "sepnas", "serve", str(deployment), "--devices", str(hosts)]
        self.process = subprocess.Popen(
            [*command, "--listen", listen, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said = self.process.stdout.readline()
        assert " listens on http://" in said, self.process.stderr.read()
        self.client = Client(int(said.split(" listens on http://")[1].split()[0].rpartition(":")[2]))

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and what it said beside the first line."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SOON_S)
        return self.process.returncode, said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def gated(exported, tmp_path):
    """The hosts of workers whose gate is closed once they are ready."""
    Gated.gate.set()
    with worker_threads(exported, engine=Gated) as (_, hosts):
        yield hosts.save(tmp_path / "hosts.yaml")
        Gated.gate.set()


@contextlib.contextmanager
def closed_gate():
    Gated.gate.clear()
    Gated.entered.clear()
    try:
        yield
    finally:
        Gated.gate.set()


def pixels(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def probabilities(network, deployment, array: np.ndarray) -> dict[str, float]:
    """What the whole network says."""
    manifest = Manifest.load(deployment / "manifest.json")
    logits = torch.from_numpy(whole_logits(network, normalise(array[None, None], manifest.image))[0])
    return dict(zip(manifest.classes, logits.softmax(0).tolist(), strict=True))


def check(answer: dict, expected: dict[str, float]) -> None:
    """The likeliest classes of these, in order."""
    found = [(each["class"], each["probability"]) for each in answer["classes"]]
    for (name, probability), best in zip(found, sorted(expected.values(), reverse=True), strict=False):
        assert probability == pytest.approx(best, abs=1e-4)
        assert probability == pytest.approx(expected[name], abs=1e-4)


@pytest.fixture(scope="module")
def hosts_file(exported, tmp_path_factory):
    with worker_processes(exported, 2, "onnxruntime") as (_, hosts):
        yield hosts.save(tmp_path_factory.mktemp("hosts") / "hosts.yaml")


@pytest.fixture(scope="module")
def client(exported, hosts_file):
    """A service of two worker processes with the usual settings."""
    with serving(exported, hosts_file, queue=64) as client:
        yield client


def test_many_clients_get_their_own_answers(client, exported, network):
    """Requests that are answered at once each get what the whole network says of their image."""
    images = [pixels(seed) for seed in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda array: client.classify(encoded(array)), images))
    for array, (status, answer) in zip(images, answers, strict=True):
        assert status == 200
        assert (len(answer["classes"]), answer["complete"], answer["without"], answer["missing"]) == (3, True, [], [])
        check(answer, probabilities(network, exported, array))


@pytest.mark.parametrize("headers", [{"Content-Type": "application/octet-stream"}, {"Content-Type": "Image/BMP"}, {}])
def test_the_content_type_may_be_any_images(client, exported, network, headers):
    """What is in the body decides, not which kind of image the header names."""
    array = pixels(1)
    for form in ("PNG", "BMP", "GIF", "PPM"):
        status, answer = client.classify(encoded(array, form), headers)
        assert status == 200
        check(answer, probabilities(network, exported, array))


def bomb() -> bytes:
    """A PNG of a hundred bytes that says it has 900 million pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (head, b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    )


def large_header() -> bytes:
    """The same with 49 million, which Pillow would read."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 7_000, 7_000, 8, 0, 0, 0, 0)
    return bomb()[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bomb()[33:]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "the body is empty"),
        (b"\x00" * 1000, "is not an image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is not an image that can be read"),
        (encoded(pixels(1), "TIFF"), "is not an image that can be read"),
        (encoded(pixels(1))[:80], "cannot be read as an image"),
        (encoded(pixels(1, 9)), "is 9x9 pixels, the network reads 8x8"),
        (encoded(pixels(1).astype(np.uint16)), "more than 8 bits a channel"),
        (bomb(), "has too many pixels; at most 25,000,000 are read"),
        (large_header(), "has 7000x7000 pixels; at most 25,000,000 are read"),
    ],
)
def test_what_is_no_image_is_told(client, image, says):
    """A body that cannot be used is answered with 422 and why."""
    status, answer = client.classify(image)
    assert (status, answer["error"]["code"]) == (422, "bad-image")
    assert says in answer["error"]["message"]


def test_an_image_of_another_size_is_scaled_where_it_was_said(exported, network, gated):
    """With `resize` an image of another size is answered, with as many classes as `top` says."""
    with serving(exported, gated, resize="stretch", top=5) as client:
        array = np.full((30, 20), 77, np.uint8)
        status, answer = client.classify(encoded(array))
    assert (status, len(answer["classes"])) == (200, 5)
    check(answer, probabilities(network, exported, array[:8, :8]))


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain"])
def test_a_form_is_no_image(client, kind):
    """A body of another kind is refused, and the error says how to send it."""
    status, answer = client.classify(encoded(pixels(1)), {"Content-Type": kind})
    assert (status, answer["error"]["code"]) == (415, "media-type")
    assert "image/png" in answer["error"]["message"]


def test_a_large_body_is_refused_unread(client):
    """Where the header says so before a byte of it was sent; otherwise when it is too much, also if it never ends."""
    with socket.create_connection(("127.0.0.1", client.port), SOON_S) as sock:
        sock.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")
    status, answer = client.classify(bytes(1000) for _ in range(10_000))
    assert (status, answer["error"]["code"]) == (413, "too-large")
    assert "100,000 bytes" in answer["error"]["message"]
    status, answer = client.classify(bytes(3_000_000))  # a client that reads only when all is sent
    assert status == 413


def test_a_body_that_never_comes_is_given_up(client, monkeypatch):
    """Who announces an image and sends half of it holds its place for a short time."""
    monkeypatch.setattr(http_body, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", client.port), SOON_S) as sock:
        sock.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
        assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_more_requests_than_may_wait_are_refused(exported, network, gated):
    """Those at the devices and those that wait are answered; more hear at once that there is no room."""
    image = encoded(pixels(3))
    with serving(exported, gated, in_flight=1, queue=2) as client, ThreadPoolExecutor(8) as pool, closed_gate():
        refused: list[Client] = []
        room = threading.Event()

        def ask():
            each = Client(client.port)
            found = each.classify(image)
            if found[0] == 503:
                refused.append(each)
                if len(refused) == 5:
                    room.set()
            return found

        asked = [pool.submit(ask) for _ in range(8)]
        assert room.wait(SOON_S)
        Gated.gate.set()
        found = [each.result(SOON_S) for each in asked]
        answered = [answer for status, answer in found if status == 200]
        assert len(answered) == 3
        for answer in answered:
            check(answer, probabilities(network, exported, pixels(3)))
        assert {answer["error"]["code"] for status, answer in found if status == 503} == {"busy"}
        assert all(each.last.headers["Retry-After"] == "1" for each in refused)


def test_who_hangs_up_makes_room(exported, gated):
    """The request of a client that has left is cancelled: its place is free while the devices still hang."""
    image = encoded(pixels(4))
    with serving(exported, gated, in_flight=1, queue=0) as client, closed_gate():
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SOON_S)
        with contextlib.closing(connection):
            connection.request("POST", "/classify", image, PNG)
            assert Gated.entered.wait(SOON_S)
        limit = time.monotonic() + SOON_S
        with contextlib.suppress(TimeoutError):  # then it waits for the devices: it was let in
            while time.monotonic() < limit:
                assert client.classify(image, timeout_s=0.5)[0] == 503
        assert time.monotonic() < limit
        Gated.gate.set()
        limit = time.monotonic() + SOON_S
        while (found := client.classify(image))[0] == 503:
            assert time.monotonic() < limit
        assert found[0] == 200


def test_a_late_answer_is_an_error(exported, gated):
    """After the deadline there is a 504, for the request at the devices and for the one behind it."""
    with serving(exported, gated, in_flight=1, timeout_s=1.0) as client, ThreadPoolExecutor(2) as pool:
        with closed_gate():
            found = list(pool.map(client.classify, [encoded(pixels(5))] * 2))
        assert [(status, answer["error"]["code"]) for status, answer in found] == [(504, "late")] * 2
        client.wait_for(200)


def killed(worker: WorkerProcess) -> None:
    worker.process.kill()
    worker.process.wait()


def test_a_lost_device_comes_back(exported, network, tmp_path):
    """A strict service says which device is lost, and answers again when that one was started again, also elsewhere."""
    array = pixels(6)
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts):
        file = hosts.save(tmp_path / "hosts.yaml")
        with serving(exported, file) as client:
            assert client.classify(encoded(array))[0] == 200
            killed(workers[1])
            said = client.wait_for(503)
            assert said["devices"]["0"] in ("ready", "not connected")
            for text in (said["devices"]["1"], said["error"]["message"]):
                assert "device 1" in text
            status, answer = client.classify(encoded(array))
            assert (status, answer["error"]["code"], client.last.headers["Retry-After"]) == (503, "devices-lost", "1")
            assert "device 1" in answer["error"]["message"]
            again = WorkerProcess(exported / "device1", engine="onnxruntime")
            try:
                Hosts.on([hosts.address(0), again.address()]).save(file)
                client.wait_for(200)
                status, answer = client.classify(encoded(array))
                assert status == 200
                check(answer, probabilities(network, exported, array))
            finally:
                again.end()


def test_requests_on_their_way_hear_of_a_lost_device(exported, tmp_path):
    """Clients that ask on and on while a device is killed get answers before it and 503 after it, and nothing else."""
    image = encoded(pixels(7))
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts):
        file = hosts.save(tmp_path / "hosts.yaml")
        with serving(exported, file) as client, ThreadPoolExecutor(4) as pool:
            lost, answered = threading.Event(), threading.Semaphore(0)

            def ask_on():
                found = []
                while not lost.is_set() or found[-1] == 200:
                    found.append(Client(client.port).classify(image)[0])
                    answered.release()
                return found

            asked = [pool.submit(ask_on) for _ in range(4)]
            for _ in range(20):
                assert answered.acquire(timeout=SOON_S)
            killed(workers[1])
            lost.set()
            for each in asked:
                found = each.result(SOON_S)
                assert found[0] == 200
                assert set(found) == {200, 503}


def test_health_is_not_ready_while_a_device_is_frozen(exported, tmp_path, monkeypatch):
    """A strict service says which device is silent until it answers again, also where nobody asks."""
    monkeypatch.setattr("sepnas.runtime.client.liveness.MAX_PONG_S", 0.5)
    with (
        worker_processes(exported, 2, "onnxruntime") as (workers, hosts),
        serving(exported, hosts.save(tmp_path / "hosts.yaml")) as client,
    ):
        freeze(workers[1].process.pid)
        try:
            said = client.wait_for(503)
        finally:
            workers[1].process.send_signal(signal.SIGCONT)
        assert said["devices"]["1"] == "silent"
        assert "device 1 is silent" in said["error"]["message"]
        client.wait_for(200)
        assert client.classify(encoded(pixels(6)))[0] == 200


def test_health_is_not_ready_while_requests_fail(exported, tmp_path, monkeypatch):
    """A strict service says how requests fail on a device, and asks it by itself, for nobody else may."""

    class Failing(TorchEngine):
        fails = False

        def run(self, segment, inputs):
            if self.fails:
                raise RuntimeError("out of luck")
            return super().run(segment, inputs)

    with (
        worker_threads(exported, engine=Failing) as (_, hosts),
        serving(exported, hosts.save(tmp_path / "hosts.yaml")) as client,
    ):
        monkeypatch.setattr(Failing, "fails", True)
        status, answer = client.classify(encoded(pixels(6)))
        assert (status, answer["error"]["code"]) == (502, "device-failed")
        said = client.wait_for(503)
        assert any("failing: device" in state and "out of luck" in state for state in said["devices"].values())
        monkeypatch.setattr(Failing, "fails", False)
        client.wait_for(200)


def test_a_service_that_degrades_answers_without(exported, tmp_path):
    """Without a device it can do without it answers and says so; without the reader it is not ready."""
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts):
        file = hosts.save(tmp_path / "hosts.yaml")
        with serving(exported, file, on_missing="degrade") as client:
            killed(workers[1])
            limit = time.monotonic() + SOON_S
            while (found := client.classify(encoded(pixels(8))))[1].get("complete", True):
                assert time.monotonic() < limit, found
            status, health = client.call("GET", "/health")
            assert (status, health["ready"], health["devices"]["0"]) == (200, True, "ready")
            status, answer = client.classify(encoded(pixels(8)))
            assert (status, answer["complete"], answer["without"]) == (200, False, [1])
            model = client.call("GET", "/model")[1]
            assert (model["on_missing"], model["resize"]) == ("degrade", "no")
            killed(workers[0])
            client.wait_for(503)
            status, answer = client.classify(encoded(pixels(8)))
            assert (status, answer["error"]["code"]) == (503, "devices-lost")


def test_a_service_that_opens_without_a_device_counts_the_others(exported, tmp_path):
    """One that degrades says how many of the devices are ready, not that all are."""
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts):
        killed(workers[1])
        with ServeProcess(exported, hosts.save(tmp_path / "hosts.yaml"), "--on-missing", "degrade") as serve:
            serve.client.wait_for(200)
            _, said = serve.end(signal.SIGINT)
    assert "sepnas serve: 1 of 2 devices are ready" in said
    assert "2 devices are ready" not in said.replace("1 of 2 devices are ready", "")


def conforms(data, schema: dict, parts: dict) -> bool:
    """Whether data have this form of OpenAPI, with no other key than it names."""
    if "$ref" in schema:
        return conforms(data, parts[schema["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in schema:
        return any(conforms(data, each, parts) for each in schema["anyOf"])
    if schema["type"] == "null":
        return data is None
    if schema["type"] == "array":
        return isinstance(data, list) and all(conforms(each, schema["items"], parts) for each in data)
    if schema["type"] == "object" and not isinstance(data, dict):
        return False
    if schema["type"] == "object" and "properties" in schema:
        known = schema["properties"]
        return set(schema["required"]) <= data.keys() <= known.keys() and all(
            conforms(value, known[key], parts) for key, value in data.items()
        )
    if schema["type"] == "object":
        return all(conforms(value, schema["additionalProperties"], parts) for value in data.values())
    if "enum" in schema and data not in schema["enum"]:
        return False
    types = {"string": str, "integer": int, "number": float, "boolean": bool}
    return isinstance(data, types[schema["type"]])


def test_answers_are_what_the_description_says(client):
    """/openapi.json names the paths, the body, and the form of every answer and error that the service gives."""
    status, described = client.call("GET", "/openapi.json")
    parts = described["components"]["schemas"]
    assert (status, set(described["paths"])) == (200, {"/classify", "/infer", "/health", "/model"})
    classify = described["paths"]["/classify"]["post"]
    assert {"image/png", "image/jpeg", "application/octet-stream"} <= set(classify["requestBody"]["content"])
    asked = [
        ("post", "/classify", encoded(pixels(1)), PNG, 200),
        ("post", "/classify", b"none", PNG, 422),
        ("post", "/infer", encoded(pixels(1)), PNG, 200),
        ("post", "/infer", json.dumps({"inputs": {"image": [0.5] * 64}}), {"Content-Type": "application/json"}, 200),
        ("post", "/infer", b"none", {"Content-Type": "application/x-npy"}, 422),
        ("post", "/classify", b"none", {"Content-Type": "text/plain"}, 415),
        ("post", "/classify", bytes(200_000), PNG, 413),
        ("get", "/health", None, {}, 200),
        ("get", "/model", None, {}, 200),
    ]
    for method, path, body, headers, expected in asked:
        status, answer = client.call(method.upper(), path, body, headers)
        assert status == expected
        form = described["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
        assert conforms(answer, form, parts), (path, status, answer)
    assert not conforms({"error": {"code": "x"}}, {"$ref": "#/components/schemas/ErrorBody"}, parts)
    for status in ("408", "502", "503", "504"):
        form = classify["responses"][status]["content"]["application/json"]["schema"]
        assert form == {"$ref": "#/components/schemas/ErrorBody"}
    assert "NotReady" in json.dumps(described["paths"]["/health"]["get"]["responses"]["503"])


def test_what_is_not_served_has_the_form_of_an_error(client):
    """An unknown path and a wrong method are JSON errors too."""
    for method, path, expected in (("GET", "/", 404), ("GET", "/classify", 405), ("POST", "/health", 405)):
        status, answer = client.call(method, path)
        assert (status, set(answer["error"])) == (expected, {"code", "message"})


def test_the_page_says_where_else_to_look(client):
    """/docs shows a way on where its scripts cannot be loaded."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SOON_S)
    with contextlib.closing(connection):
        connection.request("GET", "/docs")
        page = connection.getresponse().read().decode()
    shown = page.split('<div id="swagger-ui">')[1].split("</div>")[0]
    assert '<a href="openapi.json">' in shown


def free_address() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_it_starts_before_its_devices(exported, network, tmp_path):
    """As a program it waits for them and says so; Ctrl-C ends it with 130."""
    hosts = Hosts.on([free_address(), free_address()])
    with ServeProcess(exported, hosts.save(tmp_path / "hosts.yaml"), listen="0.0.0.0:0") as serve:
        health = serve.client.wait_for(503)
        assert health["devices"] == {"0": "not connected", "1": "not connected"}
        status, answer = serve.client.classify(encoded(pixels(9)))
        assert (status, answer["error"]["code"]) == (503, "devices-lost")
        workers = [
            WorkerProcess(exported / f"device{rank}", engine="onnxruntime", listen=hosts.address(rank))
            for rank in range(2)
        ]
        try:
            serve.client.wait_for(200)
            status, answer = serve.client.classify(encoded(pixels(9)))
            check(answer, probabilities(network, exported, pixels(9)))
            code, said = serve.end(signal.SIGINT)
        finally:
            for worker in workers:
                worker.end()
    assert code == 130
    assert "there is no password" in said
    assert "sepnas serve: waits for the devices: device 0" in said
    assert said.index("waits for the devices") < said.index("2 devices are ready")
    assert "Traceback" not in said


def reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SOON_S).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was closed before it accepted
        return False
    return True


def test_what_is_on_its_way_is_finished(exported, gated):
    """A service that is told to end answers the request that it has, and then ends with 143."""
    with ServeProcess(exported, gated, "--deadline", "10s") as serve, ThreadPoolExecutor(1) as pool:
        serve.client.wait_for(200)
        with closed_gate():
            asked = pool.submit(serve.client.classify, encoded(pixels(2)))
            assert Gated.entered.wait(SOON_S)
            serve.process.send_signal(signal.SIGTERM)
            limit = time.monotonic() + SOON_S
            while reached(serve.client.port):
                assert time.monotonic() < limit
        assert asked.result(SOON_S)[0] == 200
        _, said = serve.process.communicate(timeout=SOON_S)
    assert serve.process.returncode == 143
    assert said == "sepnas serve: 2 devices are ready\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--listen", "127.0.0.1"], "expected HOST:PORT"),
        (["--max-image-bytes", "0"], "at least 1 byte"),
        (["--in-flight", "33"], "less than or equal to 32"),
        (["--insecure", "--devices", "far.yaml"], "plain TCP is allowed on 127.0.0.1 and [::1] only, got 192.0.2.1"),
        (["--devices", "one.yaml"], "no address for rank 1"),
    ],
)
def test_mistakes_are_told_before_it_listens(exported, tmp_path, options, says, monkeypatch):
    """A wrong option ends the command at once, with what is allowed."""
    Hosts.on(["192.0.2.1:1", "192.0.2.1:2"]).save(tmp_path / "far.yaml")
    Hosts.on(["127.0.0.1:1"]).save(tmp_path / "one.yaml")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["serve", str(exported), *options], env={"COLUMNS": "200"})
    assert result.exit_code != 0
    assert says in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert "listens on" not in result.output


def test_a_port_in_use_is_told(exported, client):
    """The port of another service is not taken."""
    result = CliRunner().invoke(app, ["serve", str(exported), "--listen", f"127.0.0.1:{client.port}"])
    assert isinstance(result.exception, ListenError)
    assert "choose another port with --listen" in str(result.exception)


def test_requests_choose_a_plan(network, tmp_path):
    """`?plan=` names the plan of a request; an unknown one is refused with the names that are allowed."""
    export_plans(network, tmp_path / "deployment", ("torch",))
    image = encoded(pixels(8))
    with worker_threads(tmp_path / "deployment") as (_, hosts):
        listed = hosts.save(tmp_path / "hosts.yaml")
        with serving(tmp_path / "deployment", listed) as client:
            ask_for_plans(client, image)


def ask_for_plans(client, image):
    for query, plan in (("", "default"), ("?plan=default", "default"), (f"?plan={SILENT}", SILENT)):
        status, answer = client.call("POST", f"/classify{query}", image, PNG)
        assert (status, answer["plan"], answer["complete"]) == (200, plan, True)
    for query in ("?plan=fast", "?plan=", "?plan=" + "a" * 1000, "?plan=%00%1b"):
        status, answer = client.call("POST", f"/classify{query}", image, PNG)
        assert (status, answer["error"]["code"]) == (422, "plan")
        assert f"default, few-bytes, {SILENT}" in answer["error"]["message"]
    for query, problem in (
        ("?plna=default", "unknown query parameter 'plna'"),
        ("?plan=default&plan=default", "repeated"),
    ):
        status, answer = client.call("POST", f"/classify{query}", image, PNG)
        assert (status, answer["error"]["code"]) == (422, "query")
        assert problem in answer["error"]["message"]
    model = client.call("GET", "/model")[1]
    assert model["default_plan"] == "default"
    assert {each["name"]: each["payload_bytes"] for each in model["plans"]}[SILENT] == 0
