"""Arguments of another kind are named by their kind; numbers have bounds; measured clusters are not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.errors import SepnasError
from sepnas.separable.architecture import named_architecture
from sepnas.spec.recognise import recognise

SEARCH, RUN, SUPERNET, DEPLOYMENT, DEVICE, DEMO = "search", "run", "search/supernet", "d", "d/device0", "demo"


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each, with the files that tell what they are; the current folder."""
    files = (
        "search/run.json", "search/supernet/last.safetensors", "run/best.safetensors", "d/manifest.json",
        "d/device0/shard.json", "demo/demo.json", "new/notes.txt", "explored/candidates.jsonl",
    )  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    named_architecture("resnext11_2x4d", 2).save(tmp_path / "run" / "architecture.json")
    (tmp_path / "explored/run.json").write_text('{"format": "sepnas.exploration-run", "version": 1}')
    (tmp_path / "space.yaml").write_text("# a space\nformat: sepnas.search-space\nversion: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})
    assert result.exit_code != 0
    error = result.exception
    return str(error) if isinstance(error, SepnasError) else " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["front", RUN], "run is the folder of a training run (`sepnas train`); name the folder of a search"),
        (
            ["front", "explored"],
            "explored is the folder of an exploration (`sepnas explore`); name the folder of a search",
        ),
        (["pick", "space.yaml"], "space.yaml is a file of format sepnas.search-space; name the folder of a search"),
        (["export", SUPERNET, "x"], "search/supernet is the supernet of a search, not a network that was trained"),
        (["export", SEARCH, "x"], "search is the folder of a search (`sepnas search`); name the folder of a training"),
        (["train", SEARCH, "--out", "x"], "search is the folder of a search (`sepnas search`), not an architecture"),
        (["train", RUN, "--out", "x"], "not an architecture's file or name; name run/architecture.json"),
        (["train", "resnext11_2x4d", "--out", "x", "--start", SUPERNET], "is the supernet of a search"),
        (["search", RUN, "--out", "x"], "run is the folder of a training run"),
        (["worker", DEPLOYMENT], "d is a deployment (`sepnas export`); name the folder of one device"),
        (["infer", DEVICE, "image.png"], "d/device0 is the folder of one device of a deployment; name a deployment"),
        (["status", "space.yaml"], "space.yaml is a file of format sepnas.search-space; name a deployment"),
        (["report", "--search", DEMO], "demo is the folder of a demo, which has search/, training/"),
        (["report", "--training", SEARCH], "search is the folder of a search"),
        (["search", "space.yaml", "--out", "x", "--cluster", SEARCH], "search is the folder of a search"),
    ],
)
def test_an_argument_of_another_kind_is_named_by_its_kind(kinds: Path, arguments: list[str], says: str) -> None:
    """A file for a folder, a folder for a file, and each kind of folder for another one."""
    assert says in said(*arguments)


def test_files_of_other_programs_have_no_kind(kinds: Path) -> None:
    """Other folders and what is not there are left to the command."""
    assert recognise(kinds / "new") is None
    assert recognise(kinds / "nowhere") is None
    assert recognise(kinds / "new" / "notes.txt") == ("file", "a file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker", "d/device0", "--threads", "100000"],
        ["profile", "device", "--threads", "100000"],
        ["profile", "--devices", "100000"],
        ["train", "resnext11_2x4d", "--out", "x", "--epochs", "99999999999"],
        ["search", "space.yaml", "--out", "x", "--candidates", "99999999999"],
        ["search", "space.yaml", "--out", "x", "--workers", "100000"],
        ["describe", "resnext11_2x4d", "--devices", "100000"],
        ["bench", "d", "--requests", "99999999999"],
    ],
)
def test_numbers_out_of_all_reason_are_refused(kinds: Path, arguments: list[str]) -> None:
    """What could only exhaust the machine ends at once, with what is allowed."""
    assert "Input should be less than or equal to" in said(*arguments)


@pytest.mark.parametrize("command", [["cluster", "--device", "raspberry-pi-4b:2"], ["profile"]])
def test_a_cluster_that_is_there_is_not_replaced(kinds: Path, command: list[str]) -> None:
    """Without --force neither presets nor a quick measurement take the place of a file that may have been measured."""
    (kinds / "cluster.yaml").write_text("measured")
    assert "cluster.yaml: exists already, perhaps with figures that were measured" in said(*command)
    assert (kinds / "cluster.yaml").read_text() == "measured"


def test_a_cluster_is_replaced_when_asked(kinds: Path) -> None:
    """With --force it is."""
    (kinds / "cluster.yaml").write_text("old")
    result = CliRunner().invoke(app, ["cluster", "--device", "raspberry-pi-4b:2", "--force"])
    assert result.exit_code == 0
    assert "raspberry" in (kinds / "cluster.yaml").read_text()
