"""The driver of the full-size runs: in the right order, of the right network, and never at a dead end."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sepnas.spec.architecture import named_architecture

FULL = Path(__file__).parent.parent / "experiments" / "cifar100-full"
NETWORK = "resnext20_4x4d"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Which runs there are."""
    monkeypatch.syspath_prepend(FULL)
    yield importlib.import_module("trainings")
    sys.modules.pop("trainings", None)


def test_policies_of_another_network_are_left_out(trainings: ModuleType, tmp_path: Path) -> None:
    """What was searched for four devices of width 4 is no run of another network, nor of another count."""
    named_architecture(NETWORK, 4, "hand-made", num_classes=100).save(tmp_path / "searched-9KB.json")
    names = {run.name for run in trainings.runs_of(NETWORK, 4, tmp_path)}
    assert {"searched-9KB", "searched-9KB-fp32", "searched-9KB-int8", "searched-9KB-taught"} <= names
    for other in ("resnext20_4x8d", "resnext29_4x4d", "resnext20_8x4d"):
        assert not any("searched" in run.name for run in trainings.runs_of(other, 4, tmp_path))


def test_what_a_run_needs_is_trained_before_it(trainings: ModuleType, tmp_path: Path) -> None:
    """Where the checkpoint of what it goes on from, or learns from, is gone that one is trained anew."""
    every = list(trainings.runs_of(NETWORK, 4, tmp_path))
    by_name = {run.name: run for run in every}
    fine, taught = by_name["hand-made-mean-int4"], by_name["hand-made-mean-taught"]
    assert [run.name for run in trainings.due(every, [fine], [])] == ["hand-made-mean", "hand-made-mean-int4"]
    assert [run.name for run in trainings.due(every, [fine], [fine.start])] == ["hand-made-mean-int4"]
    assert [run.name for run in trainings.due(every, [taught], [])] == ["not-separable", "hand-made-mean-taught"]
    assert trainings.due(every, every, []) == every
    assert trainings.due(every, [], []) == []


@pytest.mark.slow
def test_the_driver_goes_on_without_its_checkpoints(tmp_path: Path) -> None:
    """In pieces, with messages in eight bits, and again when checkpoints are lost: what was found stays as it was."""
    numbers = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(100):
            folder = tmp_path / "data" / part / f"{number:02}"
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")

    def drive(out: str, *more: str) -> str:
        options = ["--network", NETWORK, "--epochs", "1", "--data", f"folder:{tmp_path / 'data'}", "--device", "cpu",
                   "--found", str(tmp_path / "full" / "found"), "--out", str(tmp_path / out), *more]  # fmt: skip
        command = [sys.executable, str(FULL / "run.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    both = ("--only", "all-to-all", "hand-made-mean-int8")
    assert "hand-made-mean is next: the time is up" in drive("runs", *both, "--stop-after-s", "0.1")
    assert "nothing is missing" in drive("runs", *both)
    [kept] = (tmp_path / "full" / "found").iterdir()
    before = {path.name: path.read_text() for path in kept.iterdir()}
    assert set(before) == {f"{name}-s0.json" for name in ("all-to-all", "hand-made-mean", "hand-made-mean-int8")}
    (kept / "hand-made-mean-int8-s0.json").unlink()
    assert "nothing is missing" in drive("elsewhere", *both)
    after = {path.name: path.read_text() for path in kept.iterdir()}
    assert after.keys() == before.keys()
    assert after["hand-made-mean-s0.json"] == before["hand-made-mean-s0.json"]
    measures = json.loads((tmp_path / "full" / "result.json").read_text())["measures"]
    saved = {measure["name"]: measure["value"] for measure in measures}
    assert saved[f"elements_saved_fraction_{NETWORK}_hand_made_mean_int8"] > 0.8
    assert saved[f"bytes_saved_fraction_{NETWORK}_hand_made_mean_int8"] > 0.95
    assert "all-to-all: done" in drive("elsewhere", "--list")
