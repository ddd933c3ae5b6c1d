"""What experiments keep from an earlier run ends in a result only if it was made in the same way."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sepnas.errors import SpecError

QUALITY = Path(__file__).parents[2] / "experiments" / "search-quality"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The settings of the search-quality experiment."""
    monkeypatch.syspath_prepend(QUALITY)
    yield importlib.import_module("settings")
    for name in ("settings", "cells"):  # names that another experiment may have too
        sys.modules.pop(name, None)


@pytest.mark.parametrize("changed", ["SUPERNET_EPOCHS", "SUPERNET_SEED", "CODE"])
def test_cells_made_otherwise_lie_elsewhere(
    quality: ModuleType, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings find the same folder again; another supernet or other code begins a new one."""
    folder = quality.cells_folder(tmp_path)
    assert quality.cells_folder(tmp_path) == folder
    value = getattr(quality, changed)
    monkeypatch.setattr(quality, changed, value[1:] if changed == "CODE" else value + 1)
    assert quality.cells_folder(tmp_path) != folder


def test_cells_that_say_otherwise_are_refused(quality: ModuleType, tmp_path: Path) -> None:
    """A folder whose settings are not those of its name is not used."""
    path = quality.cells_folder(tmp_path) / quality.SETTINGS_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "supernet_seed": 7}))
    with pytest.raises(SpecError, match="were made with other settings"):
        quality.cells_folder(tmp_path)
