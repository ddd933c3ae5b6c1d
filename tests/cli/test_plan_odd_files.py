"""Files that are given as plans and are odd: no regular files, empty programs, unusual order, long or hostile names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.errors import SepnasError, SpecError
from sepnas.plan.document import PlanDocument, load_plan
from sepnas.spec import document
from sepnas.spec.reading import count_values, read_data

VALUE = {"axes": "C", "dims": [4]}
WHOLE = [[0, 4]]


def echo() -> dict[str, Any]:
    """A plan file's content: device 0 answers with its input and computes nothing."""
    piece = {"region": WHOLE, "device": 0, "tag": 0, "wire": "fp32"}
    steps = [
        {"step": "recv", "tag": 0, "source": -1, "tensor": "x"},
        {"step": "send", "tensor": "x", "region": WHOLE, "wire": "fp32", "to": -1, "tag": 9},
    ]
    return {
        "format": "sepnas.plan",
        "version": 1,
        "inputs": [{"name": "image", "shape": VALUE, "pieces": [piece]}],
        "outputs": [{"name": "logits", "shape": VALUE, "pieces": [piece | {"tag": 9}]}],
        "devices": [{"steps": steps, "tensors": {"x": VALUE}, "segments": {}}],
    }


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def run(*arguments: object) -> str:
    """The output of a command that succeeds."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "400"})
    if result.exception is not None:
        raise result.exception
    return result.output


def refused(*arguments: object) -> str:
    """The error of a command that fails with an error of sepnas."""
    with pytest.raises(SepnasError) as found:
        run(*arguments)
    return str(found.value)


@pytest.mark.parametrize("command", [("describe",), ("simulate",), ("report", "--architecture")])
def test_a_fifo_is_refused_at_once(command: tuple[str, ...], tmp_path: Path) -> None:
    """A FIFO under the name of a plan is refused as one, and is not waited for."""
    fifo = tmp_path / "plan.json"
    os.mkfifo(fifo)
    assert "is a FIFO, not a file" in refused(*command, fifo)


def test_a_plan_that_computes_nothing_is_simulated(tmp_path: Path) -> None:
    """A plan whose critical path takes 0 s has no ratio to it: no row in the table, null in JSON."""
    path = written(tmp_path / "echo.json", echo())
    assert "times the critical path" not in run("simulate", path)
    found = json.loads(run("simulate", path, "--json"))
    assert (found["critical_path_s"], found["latency_over_critical_path"]) == (0, None)


@pytest.mark.parametrize("command", ["plan", "describe", "simulate"])
def test_a_policy_of_too_many_transfers_is_refused(command: str) -> None:
    """Legal numbers of devices and blocks that make more transfers than a policy may hold are named in the error."""
    says = refused(command, "resnext1100_64x4d", "--devices", 64, "--policy", "all-to-all")
    assert "64 devices would make 1,475,712 transfers after 366 blocks; a policy has at most 200,000" in says


@pytest.mark.parametrize("character", ["\x1b", "\n", "\x85", "\u2028"])
def test_names_are_on_one_line(character: str, tmp_path: Path) -> None:
    """A control character in a tensor's or a port's name is refused by field, and shown escaped."""
    content = echo()
    content["inputs"][0]["name"] = content["devices"][0]["steps"][0]["tensor"] = f"x{character}[31m"
    says = refused("describe", written(tmp_path / "plan.json", content))
    assert "field `inputs.0.name`" in says
    assert all(line.isprintable() for line in says.splitlines())


def _late(content: dict[str, Any]) -> str:
    """JSON whose head is filled by a name, with its format at the end."""
    content["inputs"][0]["name"] = "n" * 500
    return json.dumps(dict(reversed(content.items())), indent=40)


def _without_format(content: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in content.items() if key not in ("format", "version")})


@pytest.mark.parametrize("text_of", [_late, _without_format])
def test_a_plan_is_known_by_its_content(text_of: Callable[[dict[str, Any]], str], tmp_path: Path) -> None:
    """A plan file whose format is at its end or is left out is read as the plan that it is."""
    path, plain = tmp_path / "odd.json", written(tmp_path / "plain.json", echo())
    path.write_text(text_of(echo()))
    costs = [json.loads(run("simulate", each, "--json")) for each in (path, plain)]
    assert costs[0] == costs[1]
    assert "plan " in run("describe", path)
    assert run("report", "--architecture", path, "--out", tmp_path / "page.html").startswith("written")


def test_a_training_of_a_plan_is_refused(tmp_path: Path) -> None:
    """A training needs an architecture; a plan in its place is called a plan."""
    path = written(tmp_path / "plan.json", echo())
    assert "plan.json is a plan; a training needs the architecture" in refused("train", path, "--out", tmp_path / "run")


def test_a_file_that_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of its reader a file is written and read again; beyond it, none is left."""
    found = PlanDocument.from_data(echo())
    exact = count_values(found.to_data())
    monkeypatch.setattr(PlanDocument, "max_values", exact)
    path = found.save(tmp_path / "plan.yaml")
    assert load_plan(path) == found.plan()
    with pytest.raises(SpecError, match="too many values"):
        read_data(path, exact - 1)
    path.unlink()
    monkeypatch.setattr(PlanDocument, "max_values", exact - 1)
    with pytest.raises(SpecError, match=rf"may hold {exact - 1:,} keys and values, .*name a file that ends in \.json"):
        found.save(path)
    monkeypatch.setattr(document, "MAX_FILE_BYTES", 100)
    with pytest.raises(SpecError, match="at most 100 are read again"):
        found.save(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())


def test_a_plan_beyond_yaml_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """A plan of 16 devices has more values than a YAML file may hold: the error names the other suffix."""
    says = refused("plan", "resnext56_16x4d", "--devices", 16, "--out", tmp_path / "p.yaml")
    assert "a YAML file of sepnas.plan may hold 100,000 keys and values" in says
    assert not list(tmp_path.iterdir())
