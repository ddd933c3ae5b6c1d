"""``sepnas explore`` at the terminal: the front, the command that follows, and what is said when it is interrupted."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from sepnas.cli.main import main
from sepnas.errors import SearchError
from sepnas.exploration.folder import SeparationFront
from sepnas.exploration.problem import key_of
from sepnas.search.folder import FRONT_FILE, RUN_FILE
from sepnas.search.pareto import knee
from sepnas.separation.document import Separation
from sepnas.units import format_share
from tests.cli.test_plan_command import cli
from tests.exploration.networks import trained_on_digits
from tests.report.test_report import Page

OPTIONS = ("--devices", "2", "--data", "digits", "--images", "48", "--val-images", "60", "--candidates", "8")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_on_digits(tmp_path_factory.mktemp("explore") / "a network")


@pytest.fixture(scope="module")
def explored(network: Path) -> Path:
    out = network.parent / "a run"
    cli("explore", network, *OPTIONS, "--out", out)
    return out


def test_the_command_that_follows_makes_the_knee(network: Path, explored: Path) -> None:
    """As it is printed, but for its epochs, it separates the network as the candidate at the knee."""
    said = cli("explore", network, *OPTIONS, "--out", explored, "--resume").stdout
    words = shlex.split(said[said.index("next: sepnas ") + len("next: sepnas ") :])
    assert words[:2] == ["separate", str(network)]
    assert words[-4:] == ["--epochs", "3", "--out", f"{explored}-separated"]
    words[words.index("--epochs") + 1] = "1"
    cli(*words)
    front = SeparationFront.load(explored / FRONT_FILE)
    assert key_of(Separation.load(Path(words[-1]) / "separation.json")) == knee(front.candidates).key


def test_the_table_has_the_front_below_the_network(network: Path, explored: Path) -> None:
    """One line each: its number, its knobs and its accuracy; the network alone on a device is the first line."""
    said = cli("explore", network, *OPTIONS, "--out", explored, "--resume").stdout
    front = SeparationFront.load(explored / FRONT_FILE)
    heading, _, alone, *lines = said.splitlines()
    assert heading.split() == [
        "candidate", "tiles", "until", "points", "bytes", "wire", "messages", "latency", "KB", "memory", "accuracy"
    ]  # fmt: skip
    assert alone.startswith("one device")
    assert alone.rstrip().endswith(format_share(front.original_accuracy))
    for line, each in zip(lines, front.candidates, strict=False):
        assert line.split()[0] == str(each.index)
        assert f" {each.knobs.tiles_until} " in line
        assert f" {each.knobs.wire} " in line
        assert f" {each.knobs.messages} " in line
        assert line.rstrip().endswith(format_share(each.objectives["accuracy"]))
    assert sum(" knee " in line for line in lines) == 1
    assert f"{len(front.candidates)} points on the front of 8 candidates" in said


def test_json_has_what_the_table_has(network: Path, explored: Path) -> None:
    """And the command that follows."""
    told = json.loads(cli("explore", network, *OPTIONS, "--out", explored, "--resume", "--json").stdout)
    front = SeparationFront.load(explored / FRONT_FILE)
    assert (told["devices"], told["data"], told["evaluated"], told["val_images"]) == (2, "digits", 8, 60)
    assert told["original_accuracy"] == front.original_accuracy
    assert told["next"].startswith("sepnas separate ")
    for line, each in zip(told["candidates"], front.candidates, strict=True):
        assert {name: line[name] for name in each.knobs.arguments()} == each.knobs.arguments()
        assert (line["candidate"], line["accuracy"]) == (each.index, each.objectives["accuracy"])
        assert line["payload_bytes"] == each.costs["payload_bytes"]


def test_the_page_shows_all_candidates(network: Path, explored: Path) -> None:
    """Three pictures, every candidate in a table, and the command that follows; nothing of a supernet."""
    said = cli("explore", network, *OPTIONS, "--out", explored, "--resume").stdout
    assert f"all candidates, with pictures: {explored / 'front.html'}" in said
    text = (explored / "front.html").read_text()
    page = Page(text)
    assert page.sections() == ["separations"]
    assert len(page.ids()) == len(set(page.ids()))
    assert text.count("<svg ") == 3
    assert text.count(">accuracy before training</text>") == 3
    assert "supernet" not in text
    rows = re.findall(r'<tr[^>]*><th scope="row" class="text">([^<]*)</th>', text)
    assert rows[0] == "the network"
    assert sorted(int(row.removesuffix(" (knee)")) for row in rows[1:]) == list(range(8))
    assert said[said.index("next: ") + len("next: ") :].strip() in html.unescape(text)


def test_a_run_that_is_there_is_not_begun_again(network: Path, explored: Path) -> None:
    """Without --resume it is refused, and with another seed too."""
    with pytest.raises(SearchError, match="already holds a search; resume it with --resume"):
        cli("explore", network, *OPTIONS, "--out", explored)
    with pytest.raises(SearchError, match="`seed` was 0 and is now 7"):
        cli("explore", network, *OPTIONS, "--out", explored, "--resume", "--seed", 7)


def test_ctrl_c_names_the_command_that_goes_on(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that command ends with the front that an unbroken exploration finds."""
    out = tmp_path / "run"

    def interrupted(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    arguments = ["explore", str(network), *OPTIONS, "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["sepnas", *arguments])
    with monkeypatch.context() as patch:
        patch.setattr("sepnas.exploration.evaluator.SeparationEvaluator.__call__", interrupted)
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 130
    assert (out / RUN_FILE).exists()
    goes_on = shlex.join(["sepnas", *arguments, "--resume"])
    assert f"interrupted; completed work is kept in {out}; resume with: {goes_on}\n" in capsys.readouterr().err
    cli(*shlex.split(goes_on)[1:])
    assert (out / FRONT_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "0"], "greater than or equal to 1"),
        (["--val-images", "0"], "greater than or equal to 1"),
        (["--strategy", "hope"], "one of"),
        (["--devices", "1000"], "less than or equal to 64"),
    ],
)
def test_a_wrong_option_is_refused(network: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Before anything is computed."""
    result = cli("explore", network, *OPTIONS, *arguments, "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "x").exists()


def test_images_must_be_named(network: Path, tmp_path: Path) -> None:
    """There are no accuracies without."""
    assert cli("explore", network, "--devices", "2", "--out", tmp_path / "x").exit_code == 2
