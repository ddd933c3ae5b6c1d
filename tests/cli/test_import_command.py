"""`sepnas import` and `describe` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app

MODULE = """
import torch
from torch import nn

class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
    def forward(self, x):
        return self.first(x).sort().values
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network with an operator that sepnas does not know."""
    (tmp_path / "sorting_network.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["import", "sorting_network:Sorting", "--out", "imported", "--input-shape", "4"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "linear" in result.stdout
    assert "written: imported" in result.stdout
    assert "next: sepnas partition imported --cluster cluster.yaml" in result.stdout
    return tmp_path / "imported"


def test_an_imported_network_is_described(folder: Path) -> None:
    """The folder, and its file, are counted: parameters, MACs, layers, and opaque operators by module."""
    for path in (folder, folder / "graph.json"):
        result = CliRunner().invoke(app, ["describe", str(path), "--json"], catch_exceptions=False)
        counts = json.loads(result.stdout)
        assert (counts["parameters"], counts["macs"], counts["layers"]) == (40, 32, 1)
        assert counts["opaque"] == ["aten.sort.default in the network itself"]
    shown = CliRunner().invoke(app, ["describe", str(folder)], catch_exceptions=False)
    assert "40 parameters, 32 MACs, 1 layer with MACs" in shown.stdout


@pytest.mark.parametrize("option", [["--devices", "2"], ["--policy", "none"], ["--save", "a.json"]])
def test_options_of_separable_networks_are_refused(folder: Path, option: list[str]) -> None:
    """An imported network has no policy and no devices yet."""
    result = CliRunner().invoke(app, ["describe", str(folder), *option])
    assert result.exit_code == 2
