"""The public benchmark of `experiments/search-nasbench201`: its file runs nothing, its costs are the published ones."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sepnas.errors import SpecError

FOLDER = Path(__file__).parents[2] / "experiments" / "search-nasbench201"
MODULES = ("pickled", "cells", "cell_problem", "benchmark", "contestants")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports the experiment's modules, whose names another experiment may have too."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


class Harmful:
    """Pickled, it asks for a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return os.mkdir, (self.path,)


def test_a_pickle_that_calls_something_is_refused(modules: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """What the file names is not run, and the error says what it was; damage is refused too."""
    path = tmp_path / "table.pd"
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "made")))
    with pytest.raises(SpecError, match=r"table\.pd: the pickle names \w+\.mkdir, which a table does not need"):
        modules("pickled").read_pickled(path)
    assert not (tmp_path / "made").exists()
    for damaged in (b"", b"\x80\x05\x00", pickle.dumps([1, 2])):
        path.write_bytes(damaged)
        with pytest.raises(SpecError, match=r"table\.pd: "):
            modules("pickled").read_pickled(path)


def test_costs_are_the_benchmark_s(modules: Callable[[str], ModuleType]) -> None:
    """The range of MACs and parameters is the published one; a cell without convolutions exchanges nothing."""
    cells = modules("cells")
    skeleton = cells.Skeleton(32, 10)
    largest, empty = (cells.Cell((name,) * 6) for name in ("nor_conv_3x3", "none"))
    assert (skeleton.macs(empty), skeleton.macs(largest)) == (7_783_040, 220_119_680)
    assert (skeleton.parameters(empty), skeleton.parameters(largest)) == (73_306, 1_531_546)
    # five cells of three nodes, read by convolutions, with 16 x 32 x 32, 32 x 16 x 16, 64 x 8 x 8 numbers of 4 bytes
    assert skeleton.exchanged_bytes(largest) == 4 * 5 * 3 * (16 * 1024 + 32 * 256 + 64 * 64)
    assert skeleton.exchanged_bytes(empty) == 0
    assert cells.Cell.parse(largest.text) == largest
    with pytest.raises(SpecError, match=r"cell '\|none~0\|' cannot be read; allowed: \|op~0\|\+\|op~0\|op~1\|"):
        cells.Cell.parse("|none~0|")


def test_the_table_may_be_json(modules: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The JSON holds every cell of every data set; another pickle than the published one is refused by its digest."""
    benchmark, path = modules("benchmark"), tmp_path / "table.json"
    benchmark.write_json(made_up(modules), path)
    assert benchmark.read_accuracies(path) == made_up(modules)
    missing = made_up(modules) | {"imagenet-val": {}}
    path.write_text(json.dumps(missing))
    with pytest.raises(SpecError, match=r"table\.json: `imagenet-val` must have the accuracy of each of 15625 cells"):
        benchmark.read_accuracies(path)
    other = tmp_path / "table.pd"
    other.write_bytes(b"other")
    with pytest.raises(SpecError, match=r"table\.pd: its sha256 is \w+; allowed: \w+, the published table"):
        benchmark.read_accuracies(other)


@pytest.mark.slow
def test_every_strategy_evaluates_cells_once(modules: Callable[[str], ModuleType]) -> None:
    """A strategy gets as many evaluations as it may, of different cells, and what it found only grows."""
    benchmark, contestants = modules("benchmark"), modules("contestants").CONTESTANTS
    accuracies = made_up(modules)["cifar10-val"]
    table = benchmark.Benchmark(accuracies, benchmark.DATA_SETS["cifar10-val"], ("macs",))
    for settings in contestants.values():
        found = next(iter(settings.values()))(table, 0, 40)
        assert len(found) == len(set(found)) == 40
        shares = table.shares(found)
        assert (np.diff(shares) >= 0).all()
        assert 0 < shares[-1] <= 1
    front = sorted(accuracies, key=lambda text: -accuracies[text])
    assert table.shares(front)[-1] == pytest.approx(1)


def made_up(modules: Callable[[str], ModuleType]) -> dict[str, dict[str, float]]:
    """A table of all cells in which convolutions help and empty edges harm."""
    cells, benchmark = modules("cells"), modules("benchmark")
    worth = dict(zip(cells.OPERATIONS, (0.0, 2.0, 1.0, 3.0, 4.0), strict=True))
    grid = np.stack(np.meshgrid(*[cells.OPERATIONS] * 6), axis=-1).reshape(-1, 6)
    found = {cells.Cell(tuple(map(str, row))).text: sum(worth[name] for name in row) / 25 for row in grid}
    return dict.fromkeys(benchmark.DATA_SETS, found)
