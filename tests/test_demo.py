"""The demo's folder, and how a long command ends: nothing foreign is removed, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sepnas.cli.chain import CLUSTER_FILE, local_cluster
from sepnas.cli.demo import MARKER, _prepare
from sepnas.errors import SpecError
from sepnas.spec.cluster import uniform_cluster

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("resume", [False, True])
def test_a_foreign_folder_is_refused(tmp_path: Path, resume: bool) -> None:
    """A folder that is not a demo's is left as it is, though it holds files of the same names."""
    (tmp_path / CLUSTER_FILE).write_text("mine")
    with pytest.raises(SpecError, match="not empty and not a demo's folder"):
        _prepare(tmp_path, resume)
    assert [path.name for path in tmp_path.iterdir()] == [CLUSTER_FILE]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A file as --out is named in the error."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpecError, match="is a file; name a folder"):
        _prepare(tmp_path / "file", resume=False)


def test_only_what_a_demo_wrote_is_removed(tmp_path: Path) -> None:
    """A new demo in the folder of an earlier one removes what that one wrote and nothing else."""
    out = tmp_path / "demo"
    _prepare(out, resume=False)
    (out / "search").mkdir()
    (out / "search" / "run.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    _prepare(out, resume=True)
    assert (out / "search" / "run.json").exists()
    _prepare(out, resume=False)
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "notes.txt"]


def test_an_interrupted_chain_keeps_its_cluster(tmp_path: Path) -> None:
    """What was measured once is used when the run goes on: a new measurement would be another search."""
    cluster = uniform_cluster(3)
    cluster.save(tmp_path / CLUSTER_FILE)
    assert local_cluster(tmp_path, 3, resume=True) == cluster


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_search_leaves_nothing_behind(tmp_path: Path, how: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end a search with their usual codes, without a traceback and without temporary files."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    out = tmp_path / "run"
    command = ["search", "search_spaces/demo.yaml", "--out", str(out), "--epochs", "1", "--candidates", "5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sepnas", *command],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (out / "candidates.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert [path for path in temporary.iterdir() if path.name.startswith("sepnas")] == []
