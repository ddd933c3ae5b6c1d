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
ASSIGNMENT = QUALITY.with_name("partition-assignment")


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


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """What the partition-assignment experiment keeps."""
    monkeypatch.syspath_prepend(ASSIGNMENT)
    yield importlib.import_module("kept")
    sys.modules.pop("kept", None)


def test_an_interrupted_run_goes_on(kept: ModuleType, tmp_path: Path) -> None:
    """What is kept is not measured again, but for a line that was cut off, other code, or on demand."""
    path, measured = tmp_path / "measured.jsonl", list[int]()

    def measure() -> int:
        measured.append(len(measured))
        return measured[-1]

    first = kept.Kept(path, "code")
    assert [first.get("a", measure), first.get("b", measure), first.get("a", measure)] == [0, 1, 0]
    path.write_text(path.read_text()[:-3])
    again = kept.Kept(path, "code")
    assert [again.get("a", measure), again.get("b", measure), again.get("a", measure, again=True)] == [0, 2, 3]
    after = kept.Kept(path, "code")
    assert [after.get("a", measure), after.get("b", measure)] == [3, 2]
    assert kept.Kept(path, "other code").get("a", measure) == 4
    assert kept.digest_of([path]) != kept.digest_of([])
