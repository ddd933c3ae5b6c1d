"""Several processes that share each batch, started by torchrun as users start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sepnas.errors import CheckpointError, SearchError, TrainingError
from sepnas.separable.architecture import Architecture
from sepnas.train.checkpoint import BEST, LAST, load_network, new_network, read_checkpoint
from sepnas.train.checks import check_shares
from sepnas.train.loop import train_network
from sepnas.train.processes import Processes, is_alone, is_first
from sepnas.train.recipe import Augmentation, Recipe
from tests.cli.test_train_command import error_of
from tests.limits import PROCESS_S
from tests.train.test_data import make_folder
from tests.train.test_train import same_tensors, small_architecture, small_data

RECIPE = Recipe(epochs=2, batch_size=10, learning_rate=0.05, label_smoothing=0.1)
FULL = Recipe(
    epochs=2,
    batch_size=10,
    learning_rate=0.05,
    augmentation=Augmentation(crop_padding=1, autoaugment="svhn"),
    mixup=0.2,
    ema_decay=0.9,
    message_dropout=0.2,
)


def linear() -> nn.Module:
    """A network without batch norms: what it learns does not depend on who sees which images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def separable() -> nn.Module:
    return new_network(small_architecture(), 1)


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *arguments]
    words = [str(word) for word in command]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            out, err = running.communicate(timeout=PROCESS_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)  # with the processes that it started
            raise
    return subprocess.CompletedProcess(words, running.returncode, out, err)


SCRIPT = """
from pathlib import Path
from tests.train.test_processes import *
torch.set_num_threads(1)
out, cut = Path(%r), dict(device="cpu", stop_after_s=0)
assert not train_network(linear(), small_data(), RECIPE, out / "two", **cut).finished
assert train_network(linear(), small_data(), RECIPE, out / "two", device="cpu", resume=True).finished
for name, options in (("whole", {}), ("cut", cut)):
    train_network(separable(), small_data(), FULL, out / name, **{"device": "cpu", "progress": False} | options)
train_network(separable(), small_data(), FULL, out / "cut", device="cpu", progress=False, resume=True)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norms the weights are those of one process; with everything on, a cut run ends with the bits of an
    unbroken one, and cannot be gone on with by another number of processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    train_network(linear(), small_data(), RECIPE, tmp_path / "one", device="cpu", progress=False)
    (tmp_path / "script.py").write_text(SCRIPT % str(tmp_path))
    result = torchrun(tmp_path / "script.py")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("epoch 1") == 1  # one process speaks
    alone, shared = read_checkpoint(tmp_path / "one" / LAST), read_checkpoint(tmp_path / "two" / LAST)
    for name, value in alone[0].items():
        torch.testing.assert_close(shared[0][name], value, rtol=1e-4, atol=1e-6)
    losses = [[epoch["train_loss"] for epoch in meta["history"]] for _, meta in (alone, shared)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for file in (LAST, BEST):
        assert same_tensors(tmp_path / "whole" / file, tmp_path / "cut" / file)
    with pytest.raises(CheckpointError, match="`processes` is 2 there, None here"):
        train_network(linear(), small_data(), RECIPE, tmp_path / "two", device="cpu", progress=False, resume=True)


def test_other_launchers_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a job manager sets make no processes of one; torchrun's make this one of several."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert is_alone()
    assert is_first()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert not is_alone()
    assert not is_first()
    assert "start it without torchrun" in error_of(SearchError, "search", "space.yaml", "--out", "x")


@pytest.mark.slow
def test_torchrun_trains_at_the_terminal(tmp_path: Path) -> None:
    """`torchrun -m sepnas train` says everything once, and its network can be loaded."""
    folder = make_folder(tmp_path / "images", size=8)
    options = ("--data", f"folder:{folder}", "--epochs", 2, "--device-dropout", 0.2, "--threads", 1, "--test")
    result = torchrun(
        "-m", "sepnas", "train", "resnext11_2x4d", "-n", 2, *options, "--device", "cpu", "--out", tmp_path / "run"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best epoch") == result.stdout.count("next: sepnas export") == 1
    assert Architecture.load(tmp_path / "run" / "architecture.json") == load_network(tmp_path / "run").architecture


def test_batches_have_images_for_all() -> None:
    """A batch that leaves a process one image is refused, with what to change."""
    check_shares(4, RECIPE, 2)
    with pytest.raises(TrainingError, match="makes batches of 3 images, too few for 2 processes"):
        check_shares(3, RECIPE, 2)


def test_one_process_is_alone() -> None:
    """Nothing is shared, averaged or drawn otherwise where torchrun started nobody."""
    alone, batch = Processes(), torch.arange(5.0)
    assert alone.part(batch) is batch
    assert alone.seed(7) == 7
    assert alone.broadcast(0.25) == 0.25
    alone.average([batch])
    assert torch.equal(batch, torch.arange(5.0))
