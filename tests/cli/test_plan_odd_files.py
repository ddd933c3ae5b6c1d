"""Files that are given as plans and are odd: no regular files, empty programs, unusual order, long or hostile names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.errors import SepnasError

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
    """A plan whose floor is 0 s has no ratio to it: it is left out of the table, and null in JSON."""
    path = written(tmp_path / "echo.json", echo())
    assert "times the floor" not in run("simulate", path)
    found = json.loads(run("simulate", path, "--json"))
    assert (found["floor_s"], found["latency_over_floor"]) == (0, None)


@pytest.mark.parametrize("command", ["plan", "describe", "simulate"])
def test_a_policy_of_too_many_transfers_is_refused(command: str) -> None:
    """Legal numbers of devices and blocks that make more transfers than a policy may hold are named in the error."""
    says = refused(command, "resnext1100_64x4d", "--devices", 64, "--policy", "all-to-all")
    assert "64 devices would make 1,475,712 transfers after 366 blocks; a policy has at most 200,000" in says


@pytest.mark.parametrize("character", ["\x1b", "\n", "\x9b", "\u2028"])
def test_names_are_on_one_line(character: str, tmp_path: Path) -> None:
    """A control character in a tensor's or a port's name is refused by field, and shown escaped."""
    content = echo()
    content["inputs"][0]["name"] = content["devices"][0]["steps"][0]["tensor"] = f"x{character}[31m"
    says = refused("describe", written(tmp_path / "plan.json", content))
    assert "field `inputs.0.name`" in says
    assert all(line.isprintable() for line in says.splitlines())
