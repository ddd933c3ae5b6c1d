"""The demo's folder, and how a long command ends: nothing foreign is removed, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sepnas.cli.demo import MARKER, _prepare
from sepnas.cli.main import app
from sepnas.errors import SpecError
from sepnas.local.outcome import print_outcome, record_outcome, report_content
from sepnas.local.pipeline import CLUSTER_FILE, Chain, local_cluster, run_chain
from sepnas.report.page import write_report
from sepnas.results.recorder import Recorder
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset
from tests.limits import PROCESS_S

ROOT = Path(__file__).parents[2]


def test_the_demos_space_is_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the demo says where to run it, and makes no folder."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo"])
    assert "run the demo in sepnas' repository, or name its file with --space" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


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


def test_only_files_of_a_demo_are_removed(tmp_path: Path) -> None:
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


def test_the_chain_ends_with_answers_that_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a space whose policies all send something to three processes: they answer as the whole network does, and
    send what the plan says."""
    data = load_dataset("digits")
    data = replace(data, train=data.train.take(torch.arange(300)), test=data.test.take(torch.arange(40)))
    whole = SearchSpace.load(ROOT / "search_spaces" / "demo.yaml").to_data()
    space = SearchSpace.from_data(whole | {"policy": whole["policy"] | {"patterns": ["star:0", "all-to-all"]}})
    chain = Chain(space, uniform_cluster(3), data, tmp_path, "digits", candidates=4, supernet_epochs=1, epochs=1)
    outcome = run_chain(chain)
    with Recorder(tmp_path / "result.json", root=ROOT) as record:
        record_outcome(record, outcome, rate_per_s=1.0)
    goals = {measure.name: measure.met for measure in record.measures.values() if measure.goal}
    assert goals == dict.fromkeys(goals, True)
    assert record.measures["payload_bytes_counted"].value == record.measures["payload_bytes_predicted"].value
    page = write_report(tmp_path / "report.html", report_content(chain, outcome, "a short demo")).read_text()
    assert "Equal on every link" in page
    print_outcome(outcome, tmp_path / "report.html")
    assert "NO" not in capsys.readouterr().out


@pytest.mark.slow
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
    _, said = process.communicate(timeout=PROCESS_S)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert said.count("--resume") == said.count("interrupted") == (1 if how == signal.SIGINT else 0)
    assert [path for path in temporary.iterdir() if path.name.startswith("sepnas")] == []
