"""Who may ask an HTTP endpoint: by which names, and from which pages."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time

import pytest

from sepnas.errors import SpecError
from sepnas.runtime.transport.served_names import ServedNames
from sepnas.runtime.worker import metrics_server
from sepnas.runtime.worker.metrics import serve_metrics
from sepnas.runtime.worker.stats import WorkerStats
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import free_ports
from tests.runtime.service.test_serve import PNG, SOON_S, serving

NAME = "images.example.org"


@pytest.fixture(scope="module")
def client(exported, tmp_path_factory):
    """A service whose devices are not there: who may ask is checked before."""
    hosts = Hosts.on([f"127.0.0.1:{port}" for port in free_ports(2)])
    file = hosts.save(tmp_path_factory.mktemp("hosts") / "hosts.yaml")
    with serving(exported, file, ready=503, host_names=[NAME]) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:1", NAME])
def test_own_names_are_served(host):
    """Loopback names and those that were given are served, however they are written, on any port."""
    assert ServedNames([NAME]).refusal("POST", {"host": host}, "127.0.0.1") is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.1", "images.example.org.evil", "0",
     "", ":80", "a b", "user@localhost", "localhost/", "[", "[::1", "x" * 10_000, "\x1b[31m", "0.0.0.0", "2130706433"],
)  # fmt: skip
def test_names_of_others_are_refused(client, host):
    """A name that somebody else may have pointed here gets 421, with the option that would allow it."""
    status, answer = client.call("GET", "/model", headers={"Host": host})
    assert (status, answer["error"]["code"]) == (421, "misdirected")
    assert len(answer["error"]["message"]) < 400
    assert "\x1b" not in answer["error"]["message"]


def test_the_address_that_was_reached_is_a_name():
    """A request by the very address at which it came is no rebinding, in either form of that address."""
    names = ServedNames()
    for host, reached in (("192.0.2.7:80", "192.0.2.7"), ("192.0.2.7", "::ffff:192.0.2.7"), ("[fe80::1]", "fe80::1%2")):
        assert names.refusal("GET", {"host": host}, reached) is None
    assert names.refusal("GET", {"host": "192.0.2.8"}, "192.0.2.7") is not None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 503),
        ({"Origin": "http://localhost:{port}"}, 503),
        ({"Origin": f"https://{NAME}"}, 503),
        ({"Sec-Fetch-Site": "none"}, 503),
        ({"Sec-Fetch-Site": "same-origin"}, 503),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "file://localhost:{port}"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_post(client, headers, expected):
    """Only a page of this very service may send an image; the devices would be asked for it (503: there are none)."""
    told = {name: text.format(port=client.port) for name, text in headers.items()}
    status, answer = client.classify(b"image", {**PNG, "Host": f"localhost:{client.port}", **told})
    assert status == expected, answer


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_form_may_not_post(client, kind):
    """What a page of any site can send without being asked beforehand is refused also where it names no origin."""
    assert client.classify(b"image", {"Content-Type": kind})[0] == 415


def test_a_link_from_another_site_may_be_followed(client):
    """Reading by a link does no harm: the page that has it does not see the answer."""
    assert client.call("GET", "/model", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200


@pytest.mark.parametrize("name", ["", "a b", "http://x", "x:80", "-x", "x/y", "x" * 64, "*", "a..b", "\n"])
def test_what_is_no_name_is_refused(name):
    """A name that no request can have is told at once."""
    with pytest.raises(SpecError, match="is not a host name"):
        ServedNames([name])


@pytest.fixture
def metrics(monkeypatch):
    """A worker's metrics; its clients have a short time."""
    monkeypatch.setattr(metrics_server, "CONNECTION_S", 0.5)
    server = serve_metrics(WorkerStats(), "127.0.0.1", 0, [NAME])
    yield server.server_port
    server.shutdown()
    server.server_close()


def scrape(port: int, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_metrics_have_names_too(metrics):
    """A worker's metrics are read by address or by a name that was given, and by no page."""
    assert "sepnas_requests_total" in scrape(metrics)[1]
    assert scrape(metrics, Host=f"{NAME}:9100")[0] == 200
    status, said = scrape(metrics, Host="evil.example")
    assert status == 421
    assert "--host-name evil.example" in said
    assert scrape(metrics, Origin="http://evil.example")[0] == 403


@pytest.mark.slow
def test_metrics_outlive_idle_clients(metrics):
    """Of many clients that connect and send nothing, or a byte now and then, each is closed; scrapes go on."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", metrics), SOON_S)) for _ in range(60)]
        assert scrape(metrics)[0] == 200
        dripping, limit = idle[-1], time.monotonic() + SOON_S
        with contextlib.suppress(OSError):
            while time.monotonic() < limit:
                dripping.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < limit
        for each in idle[:-1]:
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
    assert scrape(metrics)[0] == 200


def test_metrics_of_a_huge_head_are_not_read(metrics):
    """A head that does not end is given up before it fills the memory of a small device."""
    with socket.create_connection(("127.0.0.1", metrics), SOON_S) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 10_000_000)
        with contextlib.suppress(OSError):
            assert b"200" not in sock.recv(100)
    assert scrape(metrics)[0] == 200
