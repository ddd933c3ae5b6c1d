"""Messages name options as their reader passes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas import api
from sepnas.cli.main import app
from sepnas.errors import SpecError
from sepnas.options import command_line, option
from sepnas.separable.architecture import named_architecture


def test_flags_on_the_command_line_and_arguments_in_python(tmp_path: Path) -> None:
    """One fault is reported with `--devices` to the command line and with `devices=` to Python, in this order too."""
    path = named_architecture("resnext11_2x4d", 2).save(tmp_path / "architecture.json")
    result = CliRunner().invoke(app, ["describe", str(path), "-n", "3"])
    assert str(result.exception) == f"{path}: the file has 2, but --devices is 3; leave --devices out"
    with pytest.raises(SpecError, match=r"the file has 2, but `devices=` is 3; leave `devices=` out"):
        api.describe(path, devices=3)


def test_the_command_line_ends_with_its_verb() -> None:
    """Messages name flags within the block only, also where blocks are nested."""
    with command_line():
        with command_line():
            pass
        assert option("--force", "force=True") == "--force"
    assert option("--force", "force=True") == "`force=True`"
