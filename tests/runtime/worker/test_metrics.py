"""Prometheus metrics of real workers, read over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import sepnas
from sepnas.cli.main import main
from sepnas.errors import ListenError, SpecError
from sepnas.runtime.client.session import Session
from sepnas.runtime.transport.counters import Traffic
from sepnas.runtime.worker.run import run_worker
from sepnas.runtime.worker.stats import REQUEST_BUCKETS_S, WorkerStats
from sepnas.separable.build import build_plan
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import SOON_S, WorkerProcess
from tests.limits import PROCESS_S


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def read(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and its labels' values."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SOON_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_metrics_count_what_the_plan_predicts(network, exported):
    """Over two sessions the payload bytes by peer are the plan's, and all served requests are in the histogram."""
    addresses = [free_address(), free_address()]
    workers = [
        WorkerProcess(exported / f"device{rank}", engine="onnxruntime", metrics=address)
        for rank, address in enumerate(addresses)
    ]
    sizes = (1, 2, 4)
    try:
        hosts = Hosts.on([worker.address() for worker in workers])
        for _ in range(2):
            with Session(exported, hosts) as session:
                for size in sizes:
                    session.infer(np.zeros((size, 1, 8, 8), np.uint8))
                session.counters()  # flushes what is on its way
                during = [read(address) for address in addresses]
        limit = time.monotonic() + SOON_S
        while any((after := read(address))["sepnas_session_up", ()] for address in addresses):
            assert time.monotonic() < limit, after
        after = [read(address) for address in addresses]
    finally:
        for worker in workers:
            worker.end()
    messages = list(build_plan(network.architecture).messages())
    for rank, (now, found) in enumerate(zip(during, after, strict=True)):
        assert now["sepnas_session_up", ()] == 1
        assert found["sepnas_worker_info", ("onnxruntime", str(rank), sepnas.__version__)] == 1
        assert found["sepnas_requests_total", ()] == found["sepnas_request_seconds_count", ()] == 6
        assert found["sepnas_request_seconds_bucket", ("+Inf",)] == 6
        assert found["sepnas_request_seconds_sum", ()] > 0
        assert found["sepnas_request_failures_total", ("deadline",)] == 0
        assert found["sepnas_messages_missed_total", ()] == 0
        assert found["sepnas_process_memory_bytes", ()] > 1 << 20
        for peer, name in ((-1, "client"), (1 - rank, str(1 - rank))):
            for direction, way in (("sent", (rank, peer)), ("received", (peer, rank))):
                due = [m.payload_bytes(s) for m in messages if (m.source, m.destination) == way for s in sizes]
                assert found[f"sepnas_payload_{direction}_bytes_total", (name,)] == 2 * sum(due)


def test_stats_count_times_and_bytes():
    """A time on a bucket's end is in it; a peer's new connection adds to what its old one had counted."""
    stats = WorkerStats()
    for took_s in (REQUEST_BUCKETS_S[0], 0.0011, 99.0):
        stats.count_served(took_s)
    assert stats.requests_by_time[:2] == [1, 1]
    assert stats.requests_by_time[-1] == 1
    first, second = (Traffic(), Traffic()), (Traffic(), Traffic())
    stats.follow(1, *first)
    first[0].add_message(10, 26)
    stats.follow(1, *second)
    second[0].add_message(5, 21)
    second[1].add_message(7, 23)
    stats.follow(-1, Traffic(), Traffic())
    assert {rank: (n.sent, n.received) for rank, n in stats.payload_bytes().items()} == {-1: (0, 0), 1: (15, 7)}


def test_an_address_for_metrics_that_will_not_do_is_named(exported):
    """A port in use is a ListenError that names the option, as is an unknown host; other hosts' view is warned of."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        says = rf"cannot serve metrics at 127\.0\.0\.1:{port}: port {port} is in use; .*--metrics"
        with pytest.raises(ListenError, match=says):
            run_worker(exported / "device0", "127.0.0.1:0", metrics=f"127.0.0.1:{port}")
        with pytest.warns(UserWarning, match="no password and no TLS"), pytest.raises(ListenError, match="in use"):
            run_worker(exported / "device0", "127.0.0.1:0", metrics=f"0.0.0.0:{port}")
    says = r"cannot serve metrics at nowhere\.invalid:9100"
    with pytest.warns(UserWarning, match="whoever reaches it"), pytest.raises(ListenError, match=says):
        run_worker(exported / "device0", "127.0.0.1:0", metrics="nowhere.invalid:9100")
    with pytest.raises(SpecError, match="expected HOST:PORT"):
        run_worker(exported / "device0", "127.0.0.1:0", metrics="9100")


def test_metrics_without_their_library_name_the_extra(exported, monkeypatch, capsys):
    """Where prometheus_client is missing the command says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sepnas.runtime.worker.metrics", raising=False)
    arguments = ["sepnas", "worker", str(exported / "device0"), "--listen", "127.0.0.1:0", "--metrics", free_address()]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "pip install 'sepnas[metrics]'" in capsys.readouterr().err


def test_a_worker_loads_no_more_than_it_was_asked_for(exported, tmp_path):
    """With onnxruntime and without metrics neither torch nor prometheus_client nor asyncio's servers are loaded."""
    code = (
        "import sys, threading, sepnas.runtime.worker.run as w\n"
        "w.Worker.serve_forever = lambda self: print(*sorted({'torch', 'prometheus_client', 'http.server'}"
        " & set(sys.modules)), 'loaded', file=open(sys.argv[1], 'w'))\n"
        f"w.run_worker({str(exported / 'device0')!r}, '127.0.0.1:0', engine='onnxruntime')"
    )
    found = tmp_path / "found"
    subprocess.run([sys.executable, "-c", code, found], capture_output=True, timeout=PROCESS_S, check=True)
    assert found.read_text() == "loaded\n"
