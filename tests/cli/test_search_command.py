"""``sepnas search`` at the terminal: what it says when it ends, when it is interrupted, and what to type next."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sepnas.cli.main import app, main
from sepnas.search.folder import FRONT_FILE, RUN_FILE
from sepnas.separable.space import SearchSpace
from tests.search.test_search import SPACE
from tests.train.test_data import make_folder

OPTIONS = ("--candidates", 4, "--epochs", 1, "--threads", 1)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny space of the other tests, as a file."""
    return SPACE.save(tmp_path_factory.mktemp("space") / "space.yaml")


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def next_commands(output: str) -> list[list[str]]:
    """The command lines that an output ends with, in words; what they are for is left out."""
    lines = output[output.index("next: ") + len("next: ") :].splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip()]


def test_every_step_names_the_next(space: Path, tmp_path: Path) -> None:
    """From search to deployment, what each command says to type next works as it stands."""
    run = tmp_path / "a run"
    done = cli("search", space, "--out", run, *OPTIONS)
    assert done.exit_code == 0, done.output
    pick, front, report = next_commands(done.output)
    for command in (front, [*report, "--out", tmp_path / "page.html"]):
        assert cli(*command).exit_code == 0
    picked = cli(*pick, "--out", tmp_path / "architecture.json")
    [train] = next_commands(picked.output)
    trained = cli(*train, "--epochs", 1, "--threads", 1)
    assert trained.exit_code == 0, trained.output
    [export] = next_commands(trained.output)
    assert cli(*export).exit_code == 0
    assert (tmp_path / "deployment" / "manifest.json").exists()


def test_images_of_another_size_are_resized(space: Path, tmp_path: Path) -> None:
    """Without the option the message names it; with it the next command, the training, resizes likewise."""
    size = SPACE.network.image_size
    data = make_folder(tmp_path / "images", size=size + 4)
    own = SearchSpace.from_data(SPACE.to_data() | {"network": SPACE.to_data()["network"] | {"num_classes": 2}})
    search = (
        "search",
        own.save(tmp_path / "own.yaml"),
        "--data",
        f"folder:{data}",
        "--out",
        tmp_path / "run",
        *OPTIONS,
    )
    assert f"--image-size {size}" in " ".join(str(cli(*search).exception).split())
    done = cli(*search, "--image-size", size)
    assert done.exit_code == 0, done.output
    picked = cli("pick", tmp_path / "run", "--out", tmp_path / "architecture.json")
    [train] = next_commands(picked.output)
    trained = cli(*train, "--epochs", 1, "--threads", 1)
    assert trained.exit_code == 0, trained.output


@pytest.mark.slow
def test_a_supernet_is_trained_apart(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces and without NNI; exploring goes on from it to the front that an unbroken search finds."""
    options = ("--candidates", 4, "--epochs", 2, "--threads", 1)
    with monkeypatch.context() as blocked:
        blocked.setitem(sys.modules, "nni", None)
        part = cli("search", space, "--out", tmp_path / "pieces", *options, "--stop-after-s", 0)
        assert "the supernet is trained in part; repeat the command with --resume to continue" in part.output
        whole = cli("search", space, "--out", tmp_path / "pieces", *options, "--supernet-only", "--resume")
        assert "is trained; repeat the command with --resume and without --supernet-only to continue" in whole.output
    assert cli("search", space, "--out", tmp_path / "pieces", *options, "--resume").exit_code == 0
    assert cli("search", space, "--out", tmp_path / "unbroken", *options).exit_code == 0
    fronts = [(tmp_path / name / FRONT_FILE).read_text() for name in ("pieces", "unbroken")]
    assert without_times(fronts[0]) == without_times(fronts[1])


WITHOUT_THE_SEARCH = """
import sys
for module in ("nni", "moocore", "optuna", "pytorch_lightning", "cryptography", "onnx", "onnxruntime", "onnxscript"):
    sys.modules[module] = None
from sepnas.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_supernet_is_trained_without_the_extra_search(space: Path, tmp_path: Path) -> None:
    """torch and what trains with it is enough; a whole search says what it lacks before anything is trained."""

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        search = [sys.executable, "-c", WITHOUT_THE_SEARCH, "search", space, "--out", tmp_path / "run"]
        return subprocess.run([*map(str, (*search, *OPTIONS)), *more], capture_output=True, text=True, timeout=100)

    refused = run()
    assert refused.returncode == 1
    assert "this needs nni, which is not installed" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert "the supernet is trained" in run("--supernet-only").stdout


def without_times(front: str) -> str:
    return re.sub(r'"seconds": [0-9.e+-]+', "", front)


@pytest.mark.parametrize("given", [(), ("--resume",)])
@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_names_the_command_that_goes_on(
    given: tuple[str, ...],
    begun: bool,
    space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line has the command to type, `--resume` in it once; where nothing is kept there is no such line."""

    def interrupted(space: Any, cluster: Any, data: Any, out: Path, **settings: Any) -> None:
        if begun:
            out.mkdir()
            (out / RUN_FILE).touch()
        raise KeyboardInterrupt("for Python: resume=True")

    run = tmp_path / "a run"
    monkeypatch.setattr("sepnas.search.run.run_search", interrupted)
    arguments = ["search", str(space), "--out", str(run), *given]
    monkeypatch.setattr("sys.argv", ["sepnas", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    goes_on = shlex.join(["sepnas", *(a for a in arguments if a != "--resume"), "--resume"])
    kept = f"interrupted; completed work is kept in {run}; resume with: {goes_on}\n"
    assert capsys.readouterr().err == (kept if begun else "interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "", "--out", "run"),
        ("search", "space.yaml", "--out", ""),
        ("search", "space.yaml", "--out", "run", "--cluster", ""),
        ("front", ""),
        ("pick", ""),
        ("pick", "run", "--out", ""),
        ("simulate", "resnext11_2x4d", "--cluster", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable of the shell is refused before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_search_is_refused(space: Path, tmp_path: Path) -> None:
    """A folder without a search is named with the command that makes one, a file as the run's folder is refused."""
    for command in (("front", tmp_path), ("pick", tmp_path), ("report", "--search", tmp_path)):
        assert f"`sepnas search SPACE --out {tmp_path}` makes one" in str(cli(*command).exception)
    assert str(cli("search", space, "--out", space, *OPTIONS).exception) == (
        f"{space}: is a file; name a folder for the search"
    )
