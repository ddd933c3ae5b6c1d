"""What ``experiments/QUEUE.md`` has for a GPU, at small size: the right runs in order, and never a dead end."""

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

from sepnas.separable.architecture import named_architecture
from sepnas.separable.space import SearchSpace
from tests.limits import PROCESS_S

FULL = Path(__file__).parents[2] / "experiments" / "cifar100-full"
NETWORK = "resnext20_4x4d"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Which runs there are."""
    monkeypatch.syspath_prepend(FULL)
    yield importlib.import_module("trainings")
    sys.modules.pop("trainings", None)


def test_searched_policies_are_trained_on_the_network_that_is_named(trainings: ModuleType, tmp_path: Path) -> None:
    """One of 20 layers and four devices serves every width of those, and no other depth or number of devices."""
    (tmp_path / "resnext20-4").mkdir()
    found = named_architecture(NETWORK, 4, "hand-made", num_classes=100)
    found.save(tmp_path / "resnext20-4" / "searched-5.json")
    for network in (NETWORK, "resnext20_4x8d"):
        by_name = {run.name: run for run in trainings.runs_of(network, 4, tmp_path)}
        assert {"searched-5", "searched-5-fp32", "searched-5-int8", "searched-5-taught"} <= by_name.keys()
        assert by_name["searched-5"].architecture.parts == named_architecture(network, 4, "none", 100).parts
        assert by_name["searched-5"].architecture.policy.points == found.policy.points
    for other, devices in (("resnext29_4x4d", 4), ("resnext20_8x4d", 8)):
        assert not any("searched" in run.name for run in trainings.runs_of(other, devices, tmp_path))


@pytest.mark.parametrize(
    ("name", "network"),
    [("resnext56-4", "resnext56_4x16d"), ("resnext56-8", "resnext56_8x16d"), ("resnext29-4", "resnext29_8x16d")],
)
def test_the_spaces_are_of_the_networks_that_are_trained(name: str, network: str) -> None:
    """What is searched has the parts, size and classes of the named network."""
    space = SearchSpace.load(FULL / "spaces" / f"{name}.yaml")
    searched = space.architecture_of(space.largest())
    named = named_architecture(network, int(name[-1]), "none", num_classes=100)
    same = {"name": "", "policy": named.policy.to_data()}
    assert searched.to_data() | same == named.to_data() | same


def test_prerequisites_of_a_run_are_trained_before_it(trainings: ModuleType, tmp_path: Path) -> None:
    """Where the checkpoint of what it goes on from, or learns from, is gone that one is trained anew."""
    every = list(trainings.runs_of(NETWORK, 4, tmp_path))
    by_name = {run.name: run for run in every}
    fine, taught = by_name["hand-made-mean-int4"], by_name["hand-made-mean-taught"]
    assert [run.name for run in trainings.pending(every, [fine], [])] == ["hand-made-mean", "hand-made-mean-int4"]
    assert [run.name for run in trainings.pending(every, [fine], [fine.start])] == ["hand-made-mean-int4"]
    assert [run.name for run in trainings.pending(every, [taught], [])] == ["not-separable", "hand-made-mean-taught"]
    assert trainings.pending(every, every, []) == every
    assert trainings.pending(every, [], []) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three images of noise for each of 100 classes, as ``--data`` names them."""
    root, numbers = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(100):
            folder = root / part / f"{number:02}"
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return f"folder:{root}"


def drive(script: str, *options: object) -> str:
    """What an experiment's driver prints."""
    command = [sys.executable, str(FULL.parent / script / "run.py"), "--device", "cpu", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_driver_goes_on_without_its_checkpoints(tiny: str, tmp_path: Path) -> None:
    """In pieces, with messages in eight bits, and again when checkpoints are lost: what was found stays as it was."""

    def full(out: str, *more: str) -> str:
        options = ("--network", NETWORK, "--epochs", 1, "--data", tiny, "--found", tmp_path / "full" / "found")
        return drive("cifar100-full", *options, "--out", tmp_path / out, *more)

    both = ("--only", "all-to-all", "hand-made-mean-int8")
    assert "hand-made-mean is next: the time is up" in full("runs", *both, "--stop-after-s", "0.1")
    assert "nothing is missing" in full("runs", *both)
    [kept] = (tmp_path / "full" / "found").iterdir()
    before = {path.name: path.read_text() for path in kept.iterdir()}
    assert set(before) == {f"{name}-s0.json" for name in ("all-to-all", "hand-made-mean", "hand-made-mean-int8")}
    (kept / "hand-made-mean-int8-s0.json").unlink()
    assert "nothing is missing" in full("elsewhere", *both)
    after = {path.name: path.read_text() for path in kept.iterdir()}
    assert after.keys() == before.keys()
    assert after["hand-made-mean-s0.json"] == before["hand-made-mean-s0.json"]
    measures = json.loads((tmp_path / "full" / "result.json").read_text())["measures"]
    saved = {measure["name"]: measure["value"] for measure in measures}
    assert saved[f"elements_saved_fraction_{NETWORK}_hand_made_mean_int8"] > 0.8
    assert saved[f"bytes_saved_fraction_{NETWORK}_hand_made_mean_int8"] > 0.95
    assert "all-to-all: done" in full("elsewhere", "--list")


@pytest.mark.slow
def test_a_group_of_the_table_is_trained(tiny: str, tmp_path: Path) -> None:
    """The searched policy and its three formats; what is found goes where a trial's is to go."""
    options = ("--data", tiny, "--epochs", 1, "--found", tmp_path / "found", "--out", tmp_path / "runs")
    said = drive("cifar100-cpu", *options, "--only", "searched-5-s0", "--jobs", 1)
    assert "failed" not in said
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "found").iterdir()}
    assert found.keys() == {f"searched-5-{stage}-s0" for stage in ("base", "fp32", "int8", "int4")}
    assert all("test_accuracy" in found[f"searched-5-{wire}-s0"] for wire in ("fp32", "int8", "int4"))
    assert found["searched-5-base-s0"]["val_quantised_untrained"].keys() == {"int8", "int4"}


@pytest.mark.slow
def test_the_speed_of_training_is_measured(tiny: str, tmp_path: Path) -> None:
    """All ways are the same network; the result of a trial goes where it is to go."""
    drive("training-speed", "--data", tiny, "--rounds", 1, "--steps", 1, "--workers", 0, "--out", tmp_path)
    result = json.loads((tmp_path / "result-cpu.json").read_text())
    found = {measure["name"]: measure["value"] for measure in result["measures"]}
    ways = {row["way"]: row for row in result["tables"]["ways"] if "stride 2" in row["network"]}
    assert len(ways) == 7
    assert ways["naive"]["speedup"] == 1
    assert found["training_speedup_over_naive"] == ways["bf16 (the recipe)"]["speedup"]
    assert found["training_speedup_over_naive_largest_difference"] < 1e-4
