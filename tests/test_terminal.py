"""What others say reaches the terminal whole, and never steers it; what is too wide is left out, never cut."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from sepnas.cli import main as cli_main
from sepnas.cli.main import app, main
from sepnas.console import DataConsole
from sepnas.deployment.manifest import Manifest
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.search.progress import ProgressDisplay
from sepnas.separable.architecture import named_architecture
from sepnas.spec.cluster import uniform_cluster
from sepnas.tables import DataColumn, DataTable, shorten_names, shorten_paths, text_column
from sepnas.terminal import one_line, printable
from sepnas.train.display import TrainingDisplay
from tests.helpers_runtime import worker_threads

HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202e [/b] 4 [four] :smile: a\nerror: forged\u2028b"
SHOWN = r"\x1b]0;owned\x07 \x9b31m \u202e [/b] 4 [four] :smile: a\nerror: forged\u2028b"
"""The same as it must be seen, in any place of one line."""
CLASS = "\x9b31m \u202e [/b] 4 [four] :smile: a"
"""A hostile class name that a manifest may hold: on one line, without C0 controls."""
NAMES = ("IMG[edited].png", "x[/b].png", ":smile:.png", "4 [four]", "[red]x", "1.50", "é ö 猫 👍🏽", "क\u200dष")


def steers(text: str) -> bool:
    """Whether anything in it would steer a terminal; our own colours are taken out before."""
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\u200c\u200d" for c in text)


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_harmless_and_readable(text: str) -> None:
    """Whatever the text, nothing that steers is left, and what can be seen stays as it was."""
    assert not steers(printable(text).replace("\t", ""))
    assert not steers(one_line(text))
    assert "\n" not in one_line(text)
    if text.isprintable():
        assert printable(text) == one_line(text) == text


def test_what_is_seen() -> None:
    """Controls, overrides, line breaks and lone surrogates are escaped; letters of all scripts and emoji are not."""
    assert one_line(HOSTILE) == SHOWN
    assert one_line("\udcff") == r"\udcff"
    assert [one_line(name) for name in NAMES] == list(NAMES)
    assert printable("a\nb") == "a\nb"


@pytest.mark.parametrize("wrap", [str, Text, lambda text: Text.assemble(text)])
def test_the_console_shows_strings_as_they_are(wrap) -> None:
    """Markup, emoji codes and escapes in a string or a `Text` are shown, not obeyed, also in cells and titles."""
    console = DataConsole(file=io.StringIO(), width=300)
    for name in (*NAMES, HOSTILE):
        table = Table("name", title=wrap(name))
        table.add_row(wrap(name))
        console.print(table)
        console.print(wrap(name))
    seen = console.file.getvalue()  # type: ignore[attr-defined]
    assert not steers(seen.replace("\x1b[1m", "").replace("\x1b[0m", ""))
    for name in NAMES:
        assert seen.count(name) >= 3


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert not steers(result.output)
    return result.output


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a whole program says on both streams, whatever its exit code."""
    monkeypatch.setattr(sys, "argv", ["sepnas", *arguments])
    with pytest.raises(SystemExit):
        main()
    seen = "".join(capsys.readouterr())
    assert not steers(seen)
    return seen


class Failing(TorchEngine):
    """Computes until it is told to fail, with words of its own."""

    fails = False

    def run(self, segment: str, inputs: list[np.ndarray]) -> np.ndarray:
        if Failing.fails:
            raise RuntimeError(HOSTILE)
        return super().run(segment, inputs)


def test_infer_and_status_show_what_devices_say(exported, tmp_path, monkeypatch, capsys) -> None:
    """Class names, file names, a device's error and what it says of its engine: all escaped, all whole."""
    folder = tmp_path / "client"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("device*"))
    manifest = Manifest.load(exported / "manifest.json")
    hostile = manifest.network.outputs["logits"].model_copy(update={"classes": (CLASS, *NAMES[:4])})
    network = manifest.network.model_copy(update={"outputs": {"logits": hostile}})
    manifest.model_copy(update={"network": network}).seal().save(folder / "manifest.json")
    images = []
    for name in (*NAMES[:3], "a\x1b[2Jb\u202e\n.png"):
        images.append(str(tmp_path / name))
        Path(images[-1]).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(images[-1])
    with worker_threads(exported, engine=Failing) as (workers, hosts):
        devices = ("--devices", str(hosts.save(tmp_path / "hosts.yaml")))
        seen = call("infer", str(folder), *images, *devices, "--top", "5")
        assert seen.count(one_line(CLASS)) == len(images)
        assert all(name in seen for name in (*NAMES[:4], r"a\x1b[2Jb\u202e\n.png"))
        assert json.loads(call("infer", str(folder), images[0], *devices, "--json"))[0]["image"] == images[0]
        workers[1].stats.engine = HOSTILE[:30]
        assert one_line(HOSTILE[:30]) in call("status", str(folder), *devices)
        monkeypatch.setattr(Failing, "fails", True)
        assert r"\x1b]0;owned\x07" in told(monkeypatch, capsys, "infer", str(folder), images[0], *devices)


def test_verbs_that_read_files_show_their_names(tmp_path: Path) -> None:
    """Names of devices, clusters, architectures and policies come from others' files; one that controls is refused."""
    hostile, shown = "\x9b31m \u202e [/b] 4 [four] :smile:", r"\x9b31m \u202e [/b] 4 [four] :smile:"
    cluster = uniform_cluster(2).model_copy(update={"name": hostile})
    devices = tuple(d.model_copy(update={"name": f"{n} {SHOWN[:10]} [x]"}) for n, d in enumerate(cluster.devices))
    path = str(cluster.model_copy(update={"devices": devices}).save(tmp_path / "cluster[1].yaml"))
    architecture = named_architecture("resnext11_2x4d", 2, "hand-made")
    network = str(architecture.model_copy(update={"name": HOSTILE}).save(tmp_path / "a.json"))
    assert "must match pattern" in str(CliRunner().invoke(app, ["describe", network]).exception)
    network = str(architecture.model_copy(update={"name": hostile}).save(tmp_path / "a.json"))
    assert shown in call("describe", network)
    seen = call("simulate", network, "--cluster", path, "--percentile", "95", "--timeline", "text")
    assert seen.count(shown) == 3
    assert "[x]" in seen
    out = str(tmp_path / "IMG[edited] :smile: \x1b[2J.yaml")
    assert r"IMG[edited] :smile: \x1b[2J.yaml" in call("cluster", "--device", "raspberry-pi-4b:2", "--out", out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("describe", HOSTILE), ("schema", HOSTILE), ("front", HOSTILE), ("pick", HOSTILE), ("results", HOSTILE),
        ("report", "--search", HOSTILE), ("export", HOSTILE, "x"), ("train", f"{HOSTILE}.json", "--out", "x"),
        ("train", "resnext11_1x4d", "--data", HOSTILE, "--out", "y"), ("search", HOSTILE, "--out", "x"),
        ("worker", HOSTILE, "--listen", "127.0.0.1:0"), ("infer", HOSTILE, "x"), ("bench", HOSTILE),
        ("status", HOSTILE), ("certs", "show", HOSTILE), ("trace", HOSTILE), ("serve", HOSTILE),
        ("calibrate", HOSTILE, "--architecture", "x", "--cluster", "y", "--out", "z"),
        ("simulate", "resnext11_1x4d", "--cluster", HOSTILE), ("profile", "links", "x", "--cluster", HOSTILE),
        ("serve", "x", "--listen", HOSTILE), ("bench", "x", "--deadline", HOSTILE), ("front", "x", "--sort", HOSTILE),
        (HOSTILE,), ("describe", f"--{HOSTILE}"),
    ],
    ids=lambda arguments: re.sub(r"[^a-z-]+", " ", " ".join(arguments))[:40],
)  # fmt: skip
def test_mistakes_quote_what_was_given(arguments, monkeypatch, capsys, tmp_path) -> None:
    """A message that names a file or a value shows it escaped; no line of it can be taken for one of ours."""
    monkeypatch.chdir(tmp_path)
    seen = told(monkeypatch, capsys, *arguments)
    assert r"\x1b]0;owned" in seen
    assert not [line for line in seen.splitlines() if line.startswith("error: forged")]


def test_tracebacks_warnings_and_progress_are_escaped(monkeypatch, capsys) -> None:
    """An error that nobody expected, a warning of a library and a line of progress hold words of others, too."""

    def fails() -> None:
        raise ValueError(HOSTILE)

    monkeypatch.setattr(cli_main, "app", fails)
    assert "ValueError: " in told(monkeypatch, capsys)
    cli_main._show_warning(HOSTILE, UserWarning, "/library/x.py", 1)
    ProgressDisplay(True).say(HOSTILE)
    TrainingDisplay(True, 1, 0, 1).say(HOSTILE)
    seen = capsys.readouterr().err
    assert not steers(seen)
    assert seen.count(r"\x1b]0;owned") == 3


def wide_table() -> DataTable:
    paths = text_column("path", shorten=shorten_paths)
    columns = paths, DataColumn("accuracy"), DataColumn("payload\nbytes", drop=1), DataColumn("energy", drop=2)
    table = DataTable((*columns, text_column("policy", drop=3)))
    for number in range(3):
        path = f"a/folder/of/some/length/{number}/image.png"
        table.add(path, f"{90 + number}.12%", "1,234,567", "0.123 J", "5 of 9 points, int8, mostly ring")
    return table


def seen_in(table: DataTable, width: int | None) -> str:
    console = DataConsole(file=io.StringIO(), width=width or 1000, force_terminal=False)
    console.print(table.fitted(width))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [24, 30, 40, 50, 60, 80, 120])
def test_numbers_are_never_cut(width: int) -> None:
    """In any width each number is whole or its column is left out and named; paths stay apart."""
    table = wide_table()
    seen = seen_in(table, width)
    assert all(len(line.rstrip()) <= width for line in seen.splitlines())
    words = " ".join(seen.split())
    for heading, values in (("energy", ["0.123 J"]), ("payload bytes", ["1,234,567"]), ("policy", ["5 of 9"])):
        dropped = "no room for:" in words and heading in words.partition("no room for:")[2]
        assert dropped or all(seen.count(value) == 3 for value in values)
    assert all(f"{90 + number}.12%" in seen for number in range(3))
    assert ("no room for" in words) == (width < 60)


@pytest.mark.parametrize("width", [8, 16, 20])
def test_where_no_table_has_room_cells_stand_below_each_other(width: int) -> None:
    """Numbers are whole, and each stands behind its heading."""
    words = " ".join(seen_in(wide_table(), width).split())
    if width >= 20:
        assert words.count("payload bytes: 1,234,567 energy: 0.123 J policy: 5 of 9 points, int8") == 3
    assert words.count("1,234,5") == 3


def test_a_pipe_gets_everything() -> None:
    """Without a width nothing is left out, wrapped or shortened."""
    seen = seen_in(wide_table(), None)
    assert "no room" not in seen
    for number in range(3):
        assert re.search(rf"a/folder/of/some/length/{number}/image.png +9{number}.12% +1,234,567 .*mostly ring", seen)


def test_shortened_names_still_differ() -> None:
    """Paths keep their end, devices' names what tells them apart; names that cannot stay apart stay whole."""
    assert shorten_paths(["/very/long/way/one.png", "/b.png"], 10) == ["…y/one.png", "/b.png"]
    boards = [f"raspberry-pi-4b-{number}" for number in range(12)]
    short = shorten_names(boards, 9)
    assert len(set(short)) == 12
    assert max(map(len, short)) <= 9
    twins = ["a" * 20 + "x" + "b" * 20, "a" * 20 + "y" + "b" * 20]
    assert shorten_names(twins, 9) == twins
