"""The verbs that look and profile: what they refuse, and that what they print is plain."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from sepnas.cli.main import app, main
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.cluster import Cluster, uniform_cluster


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    """The code with which the command ends, and what it said on stderr."""
    monkeypatch.setattr(sys, "argv", ["sepnas", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), " ".join(capsys.readouterr().err.replace("│", " ").split())


NETWORK = ("resnext20_4x4d", "-n", "4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["describe", *NETWORK, "--policy", "late.yaml"], "late.yaml: `points.0`.after is 99, but the blocks are 0..5"),
        (["describe", *NETWORK, "--policy", "no.yaml"], "no.yaml: no such file"),
        (["describe", "runs/none"], "runs/none: no such file or folder; expected a file of sepnas"),
        (["describe", *NETWORK, "--policy", ""], "unknown policy ''; allowed: all-to-all"),
        (["describe", "resnext20_4x" + "4" * 5000 + "d"], "unknown architecture"),
        (["results", "nowhere"], "nowhere: is not a folder"),
        (["results", "."], "holds no experiments/*/result.json"),
    ],
)
def test_mistakes_end_with_code_1(arguments: list[str], said: str, monkeypatch, capsys, tmp_path: Path) -> None:
    """A wrong file, an unknown name and a folder without results end with one message and code 1."""
    monkeypatch.chdir(tmp_path)
    points = [{"after": 99, "transfers": [{"source": 0, "destination": 1}]}]
    TransmissionPolicy.from_data({"points": points}).save("late.yaml")
    code, message = ended(monkeypatch, capsys, *arguments)
    assert (code, message[:6]) == (1, "error:")
    assert said in message


@pytest.mark.parametrize("arguments", [["describe", *NETWORK, "--save", ""], ["profile", "--out", ""]])
def test_no_file_is_written_under_an_empty_name(arguments: list[str], monkeypatch, capsys, tmp_path: Path) -> None:
    """An empty name, as of an unset variable, is refused where it was typed."""
    monkeypatch.chdir(tmp_path)
    code, message = ended(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "is empty" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bandwidth-mbit", "inf"], "got inf Mbit/s"),
        (["--bandwidth-mbit", "nan"], "got nan Mbit/s"),
        (["--bandwidth-mbit", "0"], "got 0 Mbit/s"),
        (["--latency-ms", "-1"], "got 100 Mbit/s, -1 ms"),
        (["--local", "--latency-ms", "1"], "no --latency-ms"),
        (["--name", ""], "must not be empty"),
    ],
)
def test_profile_refuses_before_it_measures(options: list[str], said: str, monkeypatch, capsys, tmp_path: Path) -> None:
    """Links that no cluster may have, and options that would be ignored, are refused and nothing is written."""
    code, message = ended(monkeypatch, capsys, "profile", "--out", str(tmp_path / "c.yaml"), *options)
    assert code == 2
    assert said in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [[], ["cluster"]])
def test_profile_without_a_verb_writes_a_cluster(verb: list[str], monkeypatch, capsys, tmp_path: Path) -> None:
    """`sepnas profile --devices 3` is `sepnas profile cluster --devices 3`: equal devices of this machine's speed."""
    monkeypatch.setattr("sepnas.cli.profile.measure_device", lambda: uniform_cluster(1).devices[0])
    monkeypatch.setattr(sys, "argv", ["sepnas", "profile", *verb, "--devices", "3", "--out", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit):
        main()
    cluster = Cluster.load(tmp_path / "c.yaml")
    assert [device.name for device in cluster.devices] == ["device0", "device1", "device2"]
    assert cluster.links[0].bandwidth_bytes_per_s == 12.5e6


def test_examples_of_profile_are_understood() -> None:
    """Every example in the help of the verbs below `profile` has options and values that its verb takes."""
    group = get_command(app).commands["profile"]  # type: ignore[attr-defined]
    for name in ("device", "links"):
        verb = group.commands[name]
        example = re.search(r"Example[^`]*`sepnas profile ([^`]*)`", verb.help)
        assert example
        first, *words = shlex.split(example[1])
        assert first == name
        verb.make_context(name, words)


def test_names_are_no_markup(monkeypatch, capsys, tmp_path: Path) -> None:
    """A name with brackets is printed as it is."""
    cluster = uniform_cluster(1, name="[/b]")
    device = cluster.devices[0].model_copy(update={"name": "[/x]"})
    path = cluster.model_copy(update={"devices": (device,)}).save(tmp_path / "c.yaml")
    monkeypatch.setattr(sys, "argv", ["sepnas", "simulate", "resnext11_1x4d", "--cluster", str(path)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "on cluster [/b]:" in shown
    assert "[/x]" in shown
