"""``sepnas infer`` and ``bench`` at real workers, and the worker processes that other commands start."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.errors import DataError, PeerLostError, PeerUnreachableError, StorageError
from sepnas.local.processes import LocalWorkers
from sepnas.runtime.client.trace import Trace
from sepnas.spec.cluster import uniform_cluster
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import export_tiny, lively_network, threads, tiny_architecture, transfer


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A deployment with two devices, and the hosts file of workers that serve it."""
    folder = tmp_path_factory.mktemp("served") / "deployment"
    points = [{"after": 0, "transfers": [transfer(1, 0), transfer(0, 1)]}]
    export_tiny(lively_network(tiny_architecture(points, devices=2, depth=11)), folder)
    with threads(folder) as hosts:
        yield str(folder), str(hosts.save(folder.parent / "hosts.yaml"))


def call(*arguments):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_infer_names_its_fields(served, tmp_path):
    """`infer --json` prints for each image its classes as objects with a name and a probability."""
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    result = call("infer", served[0], str(image), "--devices", served[1], "--json", "--top", "5")
    (found,) = json.loads(result.stdout)
    assert found["image"] == str(image)
    assert sum(entry["probability"] for entry in found["classes"]) == pytest.approx(1)
    assert {entry["class"] for entry in found["classes"]} == {f"class {k}" for k in range(5)}


def test_infer_reads_its_images_before_it_dials(served, tmp_path):
    """A wrong name is told also where no device runs yet."""
    nobody = Hosts.on(["127.0.0.1:1", "127.0.0.1:2"]).save(tmp_path / "hosts.yaml")
    result = call("infer", served[0], str(tmp_path / "nope.png"), "--devices", str(nobody))
    assert isinstance(result.exception, DataError)
    assert "nope.png" in str(result.exception)


def test_infer_resizes_on_request(served, tmp_path):
    """An image of another size is refused with the name of the option, with which it is answered."""
    image = tmp_path / "image.jpg"
    Image.effect_noise((30, 20), 50).save(image)
    infer = ("infer", served[0], str(image), "--devices", served[1])
    assert "--resize crop" in str(call(*infer).exception)
    for resize in ("crop", "stretch"):
        result = call(*infer, "--resize", resize)
        assert result.exit_code == 0
        assert str(image) in result.stdout


def test_bench_prints_its_measurement_before_it_writes(served, tmp_path):
    """A trace that cannot be written does not cost the table; a wrong cluster is told before anything is measured."""
    bench = ("bench", served[0], "--devices", served[1], "--requests", "2", "--warmup", "0")
    cluster = uniform_cluster(2).save(tmp_path / "cluster.yaml")
    (tmp_path / "file").write_text("")
    result = call(*bench, "--cluster", str(cluster), "--trace", str(tmp_path / "file/trace.json"))
    assert isinstance(result.exception, StorageError)
    assert "latency, predicted, 1 thread each" in result.stdout
    result = call(*bench, "--cluster", str(tmp_path / "none.yaml"))
    assert "none.yaml: no such file" in str(result.exception)
    assert result.stdout == ""


def test_bench_traces_as_many_requests_as_asked(served, tmp_path):
    """The trace has the last request, or as many of the last ones as `--traced` says."""
    bench = ("bench", served[0], "--devices", served[1], "--requests", "4", "--warmup", "0")
    for options, number in (((), 1), (("--traced", "3"), 3)):
        result = call(*bench, "--trace", str(tmp_path / "trace.json"), *options)
        assert result.exit_code == 0
        requests = Trace.load(tmp_path / "trace.json").requests
        assert [each.request for each in requests] == list(range(5 - number, 5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["infer", "deployment", ""], "is empty"),
        (["bench", "deployment", "--trace", ""], "is empty"),
        (["bench", "deployment", "--deadline", "1e9"], "at least 1 ms and at most 86400 s, got 1e9"),
        (["bench", "deployment", "--deadline", "0.5ms"], "at least 1 ms and at most 86400 s, got 0.5ms"),
        (["bench", "deployment", "--deadline", "soon"], "'soon' cannot be read; give seconds"),
        (["bench", "deployment", "--batch", "5000"], "less than or equal to 4096"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, says):
    """An empty path or a number out of its range ends with usage and what is allowed."""
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


def talker(tmp_path, monkeypatch, code):
    """Let what is started in place of a worker run this code."""
    script = tmp_path / "talker"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_talkative_worker_is_heard_to_the_end(tmp_path, monkeypatch):
    """The line that says where a worker listens is found among others, and whatever it says later never blocks it."""
    done = tmp_path / "done"
    says = "import time; print('warm\\nx listens on 127.0.0.1:7 (TLS)', flush=True); print('y' * 300_000, flush=True)"
    talker(tmp_path, monkeypatch, f"{says}; open({str(done)!r}, 'w').close(); time.sleep(60)")
    with LocalWorkers(tmp_path, 1) as workers:
        assert workers.hosts.address(0) == "127.0.0.1:7"
        limit = time.monotonic() + 120
        while not done.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        assert done.exists()


def test_a_worker_that_does_not_start_is_quoted(tmp_path, monkeypatch):
    """The error holds the last words of a worker that ended."""
    talker(tmp_path, monkeypatch, "for k in range(100): print(f'word{k}')")
    with (
        pytest.raises(PeerUnreachableError, match=r"did not get ready: word50 / .* / word99$"),
        LocalWorkers(tmp_path, 1),
    ):
        pass


def test_infer_answers_the_good_and_lists_the_bad(served, tmp_path):
    """Of many files all bad ones are named at the end, with exit code 1, and the others are answered in their order."""
    paths = [tmp_path / f"{index}.png" for index in range(70)]  # more than one request
    for path in paths:
        Image.effect_noise((8, 8), 50).save(path)
    paths[1].write_text("no picture")
    paths[68].unlink()
    result = call("infer", served[0], *map(str, paths), "--devices", served[1])
    assert isinstance(result.exception, DataError)
    lines = str(result.exception).splitlines()
    assert lines[0] == "2 of 70 images cannot be read:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [str(paths[1]), str(paths[68])]
    found = json.loads(call("infer", served[0], *map(str, paths), "--devices", served[1], "--json").stdout)
    assert [entry["image"] for entry in found] == list(map(str, paths))
    assert [index for index, entry in enumerate(found) if "error" in entry] == [1, 68]
    assert all(len(entry["classes"]) == 3 for entry in found if "error" not in entry)
    assert str(paths[0]) in result.stdout
    assert str(paths[68]) not in result.stdout
    nothing = call("infer", served[0], str(paths[1]), str(paths[68]), "--devices", "nowhere.yaml").exception
    assert str(nothing).startswith("none of 2 images can be read:\n")


def test_a_worker_that_is_gone_says_how(tmp_path, monkeypatch):
    """Who started workers hears how one ended that was not told to: by which signal, or with which code."""
    says = "import os, time; print(f'x listens on 127.0.0.1:{os.getpid() % 60000 + 1}', flush=True); time.sleep(600)"
    talker(tmp_path, monkeypatch, says)

    def lose_one():
        with LocalWorkers(tmp_path, 2) as workers:
            os.kill(workers.pids[1], signal.SIGSEGV)
            os.waitid(os.P_PID, workers.pids[1], os.WEXITED | os.WNOWAIT)
            raise PeerLostError("as a session would")

    with pytest.raises(PeerLostError) as caught:
        lose_one()
    (note,) = caught.value.__notes__
    assert note.startswith("device 1, a process of this machine: SIGSEGV ended it: a library crashed")


def test_a_worker_that_crashes_at_its_start_says_how(tmp_path, monkeypatch):
    """The signal that ended a worker before it was ready is named."""
    talker(tmp_path, monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(PeerUnreachableError, match=r"\(SIGILL ended it: .*\) did not"), LocalWorkers(tmp_path, 1):
        pass
