"""``sepnas train``, ``export`` and ``report --training`` at the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sepnas.cli.main import app
from sepnas.errors import DataError, DeploymentError, SepnasError
from sepnas.runtime.images import read_image
from sepnas.spec.dataset import DataFacts
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import Manifest
from tests.test_data import make_folder

NETWORK = ("resnext11_2x4d", "-n", "2", "--threads", "1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(kind: type[SepnasError], *arguments: object) -> str:
    error = run(*arguments).exception
    assert isinstance(error, kind)
    return str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of two classes, 12 pixels a side."""
    return make_folder(tmp_path_factory.mktemp("data") / "images", size=12)


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Path:
    """A run on ``folder`` at 8 pixels that stopped after one of three epochs."""
    out, options = folder.parent / "a [run]", ("--image-size", 8, "--epochs", 3, "--stop-after-s", 0)
    output = said("train", *NETWORK, "--data", f"folder:{folder}", "--out", out, *options)
    assert f"-> {out}\nstopped after epoch 1; the same command with --resume goes on" in output
    return out


def test_an_interrupted_run_is_exported_and_told_so(interrupted: Path, tmp_path: Path) -> None:
    """The best epoch so far becomes a deployment; what to type next has the addresses of its hosts.yaml."""
    hosts = Hosts.on(["10.0.0.7:7001", "10.0.0.8:7001"]).save(tmp_path / "hosts.yaml")
    out = tmp_path / "out"
    output = said("export", interrupted, out, "--hosts", hosts)
    assert f"{interrupted}: stopped after 1 of 3 epochs; this is the best of them" in output
    assert f"sepnas worker {out}/device0 --listen 10.0.0.7:7001" in output
    assert f"sepnas infer {out} IMAGE..." in output
    assert Manifest.load(out / "manifest.json").classes == ("cat", "dog")


def test_a_run_of_no_epoch_is_not_exported(interrupted: Path, tmp_path: Path) -> None:
    """The file that is missing is named, with the command that makes it."""
    (tmp_path / "data.json").write_bytes((interrupted / "data.json").read_bytes())
    message = error_of(DeploymentError, "export", tmp_path, tmp_path / "out")
    assert "best.safetensors is missing; `sepnas train" in message


def test_an_architecture_of_another_size_names_the_option(interrupted: Path, folder: Path, tmp_path: Path) -> None:
    """Following the message makes the command work."""
    command = ("train", interrupted / "architecture.json", "--data", f"folder:{folder}", "--out", tmp_path / "run")
    assert "sepnas train --image-size 8" in error_of(SepnasError, *command)
    assert not (tmp_path / "run").exists()
    said(*command, "--image-size", 8, "--epochs", 1)


@pytest.mark.parametrize("option", ["--out", "--data", "--data-root", "--recipe", "--policy"])
def test_empty_values_are_refused(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable of the shell is not the current folder, nor a default."""
    monkeypatch.chdir(tmp_path)
    result = run("train", *NETWORK, *(() if option == "--out" else ("--out", "run")), option, "")
    assert result.exit_code == 2
    assert f"'{option}': is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_a_damaged_history_is_told_by_the_report(interrupted: Path, tmp_path: Path) -> None:
    """A run that is not finished has its page; a damaged line of its history is named."""
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    said("report", "--training", interrupted, "--out", page)
    assert "validation accuracy, epoch 1" in page.read_text()
    for name in ("architecture.json", "history.jsonl"):
        (tmp_path / name).write_bytes((interrupted / name).read_bytes()[:-1])
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write("\n{")
    assert "history.jsonl: line 2: " in error_of(SepnasError, "report", "--training", tmp_path, "--out", page)


def test_a_deployment_resizes_as_its_training_did(folder: Path, interrupted: Path, tmp_path: Path) -> None:
    """What training made of images of another size stands in the manifest, and `infer` makes the same of a file."""
    assert DataFacts.load(interrupted / "data.json").resize == "stretch"
    run_folder, options = tmp_path / "run", ("--image-size", 8, "--resize", "crop", "--epochs", 1)
    said("train", *NETWORK, "--data", f"folder:{folder}", "--out", run_folder, *options)
    said("export", run_folder, tmp_path / "out", "--engine", "torch")
    wanted = Manifest.load(tmp_path / "out" / "manifest.json").input
    assert wanted.resize == "crop"
    wide = tmp_path / "wide.png"
    Image.effect_noise((30, 20), 50).save(wide)
    found = {how: read_image(wide, "wide", wanted, how) for how in (None, "crop", "stretch")}
    assert np.array_equal(found[None], found["crop"])
    assert not np.array_equal(found[None], found["stretch"])
    with pytest.raises(DataError, match="30x20 pixels, the network reads 8x8"):
        read_image(wide, "wide", wanted, "no")
