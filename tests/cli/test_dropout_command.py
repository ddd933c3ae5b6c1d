"""``--device-dropout`` at the terminal: what is trained, and what is said of lost devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.search.folder import RUN_FILE, SearchRun
from tests.helpers_runtime import tiny_architecture, transfer
from tests.search.test_search import SPACE


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    """Three devices that all have the classifier, for digits."""
    points = [{"after": 0, "transfers": [transfer(0, 1), transfer(1, 2), transfer(2, 0)]}]
    return tiny_architecture(points, "mean", depth=11).model_copy(update={"num_classes": 10}).save(tmp_path / "a.json")


def cli(*arguments: object) -> tuple[int, str]:
    """The exit code, and what was printed or raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    return result.exit_code, f"{result.output} {result.exception}"


@pytest.mark.slow
def test_train_reports_the_accuracy_without_devices(architecture: Path, tmp_path: Path) -> None:
    """With dropout the test split is also asked with one and two of three devices lost; without, as before."""
    train = ("train", architecture, "--epochs", 1, "--threads", 1, "--test")
    status, said = cli(*train, "--out", tmp_path / "with", "--device-dropout", 0.2)
    assert status == 0, said
    assert "with 1 of 3 devices lost" in said
    assert "with 2 of 3 devices lost" in said
    status, said = cli(*train, "--out", tmp_path / "without")
    assert status == 0, said
    assert "test accuracy" in said
    assert "lost" not in said


def test_a_share_that_is_none_is_refused(architecture: Path, tmp_path: Path) -> None:
    """The message names the field, the value and what is allowed, before anything is written."""
    for share in (1, -0.5):
        status, said = cli("train", architecture, "--out", tmp_path / "run", "--device-dropout", share)
        assert status != 0
        assert re.search("`device_dropout`:? must be", said)
        assert f"got {share:g}" in said
    assert not (tmp_path / "run").exists()


def test_search_trains_its_supernet_with_it(tmp_path: Path) -> None:
    """The share is the search's own: it stands in its file, and one with another share is another search."""
    space, run = SPACE.save(tmp_path / "space.yaml"), tmp_path / "run"
    search = ("search", space, "--out", run, "--candidates", 2, "--epochs", 1, "--threads", 1)
    status, said = cli(*search, "--device-dropout", 0.25)
    assert status == 0, said
    assert SearchRun.load(run / RUN_FILE).recipe.device_dropout == 0.25
    status, said = cli(*search, "--resume")
    assert status != 0
    assert "device_dropout" in said
