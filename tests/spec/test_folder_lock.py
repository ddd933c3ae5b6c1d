"""One command at a time writes in a folder; a dead one is no obstacle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.deploy.renew import renew
from sepnas.errors import StorageError, TrainingError
from sepnas.spec import folder_lock
from sepnas.spec.folder_lock import LOCK_FILE, changing, held, held_by, refuse_held
from sepnas.train.evaluation import Evaluation, evaluate_split, read_evaluations
from tests.helpers_runtime import export_tiny, lively_network, pair_architecture
from tests.search.test_search import ROOT

HOLDER = """
import sys
from pathlib import Path
from sepnas.spec.folder_lock import held
with held(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder until its standard input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_one_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    """While a process holds a folder, another is refused and told its number, its command and since when."""
    folder = tmp_path / "new" / "run"
    with holder(folder) as process:
        said = (
            rf"{re.escape(str(folder))}: another process is training here \(process {process.pid} since \d{{4}}-.*: -c "
        )
        with pytest.raises(StorageError, match=said), held(folder, "training"):
            pass
        with pytest.raises(StorageError, match=said):
            refuse_held(folder, "training")
    with held(folder):
        assert (folder / LOCK_FILE).exists()
    assert list(folder.iterdir()) == []


def test_a_killed_holder_is_no_obstacle(tmp_path: Path) -> None:
    """A process that was killed leaves a file, and no lock."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    refuse_held(tmp_path)
    with held(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("locks", ["flock", "none"])
def test_without_locks_of_the_file_system_a_living_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    """Where a file system has no locks, a process that runs is refused for, and a dead one is not."""
    if locks == "none":
        monkeypatch.setattr(folder_lock, "_lock", lambda handle, lock: folder_lock._check_holder(lock))
    with holder(tmp_path) as process:
        with pytest.raises(StorageError, match=f"process {process.pid} since"), held(tmp_path):
            pass
        process.kill()
        process.wait()
    with held(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no modes")
def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A folder that nobody may write in, a file, and a link in the lock's place are errors that say so."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK_FILE).symlink_to(tmp_path / "file")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "folder", Path("/proc/self/fdinfo")):
        with pytest.raises(StorageError, match=f"{path}: cannot be written: "), held(path):
            pass


def test_what_a_stranger_wrote_is_shown_harmlessly(tmp_path: Path) -> None:
    """A lock file may be another user's: escapes do not reach the terminal, and nonsense is passed over."""
    with holder(tmp_path):
        for text, said in (
            (
                '{"process": 1, "machine": "\\u001b[2J", "since": "x", "command": "y"}',
                r"\(process 1 on \?\[2J since x: y\)",
            ),
            ('{"process": 1}', r"here; wait"),
            ("[" * 4000, "here; wait"),
        ):
            (tmp_path / LOCK_FILE).write_text(text)
            with pytest.raises(StorageError, match=said), held(tmp_path):
                pass


def test_a_command_leaves_a_folder_alone_that_another_writes_in(tmp_path: Path) -> None:
    """Search, training and the demo refuse a folder that is held, before they read any data."""
    commands = [
        ["search", "search_spaces/demo.yaml", "--data", "folder:/none"],
        ["train", "resnext11_4x4d", "--data", "folder:/none"],
        ["demo"],
    ]
    with holder(tmp_path / "run") as process:
        for command in commands:
            done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
            assert f"here (process {process.pid} since" in str(done.exception)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_FILE]


def test_exports_and_renewals_take_turns(tmp_path: Path) -> None:
    """A deployment is not replaced, nor its certificates renewed, while another process writes there; nor is one made
    where another is being made."""
    network = lively_network(pair_architecture())
    deployment, coming = tmp_path / "deployment", tmp_path / "coming"
    export_tiny(network, deployment)
    with holder(deployment):
        for write in (lambda: export_tiny(network, deployment, force=True), lambda: renew(deployment, [0])):
            with pytest.raises(StorageError, match="deployment: another process is writing here"):
                write()
    beside = held_by(tmp_path / f".coming{LOCK_FILE}", coming, "writing")
    with beside, pytest.raises(StorageError, match="coming: another process is writing here"):
        export_tiny(network, coming)
    (deployment / LOCK_FILE).write_text("left by a kill")
    export_tiny(network, deployment, force=True)
    renew(deployment, [0])
    assert not list(tmp_path.rglob(f"*{LOCK_FILE}"))


def test_changes_of_a_file_take_turns(tmp_path: Path) -> None:
    """Of four processes that count in one file, each by reading and writing it, none loses what another has counted."""
    count = tmp_path / "count"
    count.write_text("0")
    code = """
import sys
from pathlib import Path
from sepnas.spec.folder_lock import changing
for _ in range(50):
    with changing(Path(sys.argv[1])):
        Path(sys.argv[1]).write_text(str(int(Path(sys.argv[1]).read_text()) + 1))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(count)], cwd=ROOT) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert count.read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_file_that_another_keeps_changing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a change that does not end is told who makes it; a device is nobody's."""
    monkeypatch.setattr("sepnas.spec.folder_lock.MAX_WAIT_S", 0.1)
    with changing(tmp_path / "c.yaml"):
        with (
            pytest.raises(StorageError, match=r"c\.yaml: another process is changing here"),
            changing(tmp_path / "c.yaml"),
        ):
            pass
        with changing(Path("/dev/null")), changing(Path("/dev/null")):
            pass


def test_a_trained_network_is_measured_in_a_folder_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """validation.json and test.json are written by who holds the run's folder: no other training begins there."""
    splits = []

    def measured(network: Any, images: Any, split: Any, *rest: Any) -> Evaluation:
        with pytest.raises(TrainingError, match="is training here"):
            refuse_held(tmp_path, "training", TrainingError)
        splits.append(split)
        return evaluate_split(network, images, split, *rest)

    monkeypatch.setattr("sepnas.train.evaluation.evaluate_split", measured)
    options = ["--devices", "2", "--epochs", "1", "--test", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["train", "resnext11_2x4d", *options])
    assert done.exit_code == 0, done.output
    assert splits == ["validation", "test"]
    assert [each.split for each in read_evaluations(tmp_path)] == splits
    assert not (tmp_path / LOCK_FILE).exists()
