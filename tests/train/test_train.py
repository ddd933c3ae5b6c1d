"""The training loop: resumed bit for bit, stopped with a reason, written whole."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import CheckpointError, SpecError, StorageError, TrainingError, how_it_ended
from sepnas.separable.architecture import Architecture
from sepnas.separable.policy import Readout
from sepnas.spec.dataset import DataFacts
from sepnas.train import checkpoint
from sepnas.train.checkpoint import (
    ARCHITECTURE,
    BEST,
    DATA,
    LAST,
    epochs_of,
    load_network,
    new_network,
    read_checkpoint,
    write_checkpoint,
)
from sepnas.train.curves import Curves
from sepnas.train.data import load_dataset
from sepnas.train.ended import RUNNING
from sepnas.train.evaluate import accuracy, accuracy_with_lost, predict_logits
from sepnas.train.images import ImageData, Split
from sepnas.train.loop import train_network
from sepnas.train.optimize import Optimization
from sepnas.train.recipe import RECIPES, Augmentation, Recipe, load_recipe
from sepnas.train.record import HISTORY, EpochRecord, read_history
from sepnas.train.run_files import steps_begun
from sepnas.train.seeds import derived_seed
from tests.limits import PROCESS_S

RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.05, augmentation=Augmentation(crop_padding=1))


def small_data(classes: int = 3, channels: int = 1, size: int = 8) -> ImageData:
    numbers = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, channels, size, size), generator=numbers).byte()
        return Split(images, torch.arange(count) % classes)

    names = tuple(str(number) for number in range(classes))
    return ImageData("small", names, split(50), split(30), split(30), (0.5,) * channels, (0.3,) * channels)


def small_architecture(**changes: Any) -> Architecture:
    part = {"bottleneck_width": 2, "output_channels": 4}
    pair = {"source": 1, "destination": 0}
    policy = {"points": [{"after": 0, "transfers": [pair], "merge": "weighted"}]}
    values = {"depth": 11, "num_classes": 3, "in_channels": 1, "image_size": 8, "stem_channels": 4}
    return Architecture.from_data(values | {"parts": [part, part], "policy": policy} | changes)


def train(out_dir: Path, recipe: Recipe = RECIPE, **options: Any) -> Any:
    network = options.pop("network", None) or new_network(small_architecture(), 1)
    data = options.pop("data", None) or small_data()
    quiet: dict[str, Any] = {"progress": False, "device": "cpu"}
    return train_network(network, data, recipe, out_dir, **(quiet | options))


def with_loss(at: int, act: Any) -> Any:
    """A step that calls ``act(loss)`` in place of its loss the ``at``-th time (from 1)."""
    calls = 0

    def step(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        loss = functional.cross_entropy(network(images), labels)
        return act(loss) if calls == at else loss

    return step


def same_tensors(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``RECIPE``."""
    out_dir = tmp_path_factory.mktemp("unbroken")
    train(out_dir)
    return out_dir


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    """Weights, best weights, architecture, data facts, a history line an epoch and curves; nothing half-written."""
    names = {path.name for path in unbroken.iterdir()}
    assert names == {LAST, BEST, ARCHITECTURE, DATA, HISTORY, "tensorboard"}
    lines = [json.loads(line) for line in (unbroken / HISTORY).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert list((unbroken / "tensorboard").iterdir())


def test_the_result_is_that_of_the_best_epoch_by_validation(tmp_path: Path) -> None:
    """The best weights answer with the accuracy that the result states; the network keeps the last ones."""
    network, data = new_network(small_architecture(), 1), small_data()
    result = train(tmp_path, network=network)
    assert result.finished
    assert result.epochs_done == 4
    assert result.best_accuracy == max(record.val_accuracy for record in result.history)
    assert accuracy(load_network(tmp_path), data.val, data) == result.best_accuracy
    assert accuracy(network, data.val, data) == result.history[-1].val_accuracy
    assert result.images_per_s > 0
    assert result.duration_s > 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken: Path, tmp_path: Path) -> None:
    """A run depends on its seed alone, not on what the caller drew before."""
    torch.rand(7)
    train(tmp_path / "again")
    train(tmp_path / "other", seed=1)
    assert same_tensors(unbroken / LAST, tmp_path / "again" / LAST)
    assert not same_tensors(unbroken / LAST, tmp_path / "other" / LAST)


def test_training_leaves_the_callers_generator_alone(tmp_path: Path) -> None:
    """What the caller draws afterwards does not depend on the training."""
    state = torch.get_rng_state()
    train(tmp_path, RECIPE.model_copy(update={"epochs": 1}))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step"])
def test_a_stopped_run_resumes_bit_for_bit(schedule: str, tmp_path: Path) -> None:
    """Stopped by its time limit after each epoch, a run ends with the tensors of an unbroken one, on any schedule."""
    milestones = (1, 3) if schedule == "step" else ()
    values = RECIPE.to_data() | {"schedule": schedule, "milestones": milestones, "channels_last": True}
    recipe = Recipe.from_data(values)
    train(tmp_path / "whole", recipe)
    for epoch in range(1, 5):
        result = train(tmp_path / "parts", recipe, resume=True, stop_after_s=0)
        assert (result.epochs_done, result.finished) == (epoch, epoch == 4)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)
    assert same_tensors(tmp_path / "whole" / BEST, tmp_path / "parts" / BEST)


def dropping() -> nn.Module:
    """A network with layers that draw by themselves."""
    network = new_network(small_architecture(), 1)
    network.parts[0][0] = nn.Sequential(network.parts[0][0], nn.Dropout(0.5))
    return network


def test_dropout_resumes_bit_for_bit(tmp_path: Path) -> None:
    """What layers draw by themselves derives from the seed, the epoch and the step too."""
    train(tmp_path / "whole", network=dropping())
    train(tmp_path / "parts", network=dropping(), stop_after_s=0)
    train(tmp_path / "parts", network=dropping(), resume=True)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)


KILLED = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.train.test_train import train, with_loss
train(Path(sys.argv[1]), step=with_loss(11, lambda loss: os.kill(os.getpid(), signal.SIGKILL)))
"""


OTHER = {
    "labels": replace(small_data(), train=Split(small_data().train.images, small_data().train.labels.flip(0))),
    "val": replace(small_data(), val=small_data().val.take(torch.arange(20))),
}


@pytest.mark.parametrize("change", OTHER)
def test_a_run_on_other_data_is_not_resumed(change: str, unbroken: Path) -> None:
    """Swapped labels, or fewer validation images, are other data, though their statistics are the same."""
    with pytest.raises(CheckpointError, match=r"`data\.content_sha256` is '\w+' there, '\w+' here"):
        train(unbroken, data=OTHER[change], resume=True)


def test_the_same_data_may_have_another_name(unbroken: Path) -> None:
    """A path that is spelled differently is no other data."""
    assert train(unbroken, data=replace(small_data(), name="folder:b/"), resume=True).finished


def test_a_run_of_before_there_was_a_digest_is_resumed(unbroken: Path, tmp_path: Path) -> None:
    """A checkpoint that does not say which content its data had goes on, as it did."""
    tensors, meta = read_checkpoint(unbroken / LAST)
    del meta["identity"]["data"]["content_sha256"]
    write_checkpoint(tmp_path / LAST, tensors, meta)
    assert train(tmp_path, resume=True).finished


def test_a_killed_run_resumes_bit_for_bit(unbroken: Path, tmp_path: Path) -> None:
    """A process killed in the third epoch goes on after the second and ends with the tensors of an unbroken run."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    killed = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(killed, cwd=root, env=environment, timeout=100, stderr=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    assert "here ended without a message" in done.stderr
    assert len((tmp_path / HISTORY).read_text().splitlines()) == 2
    with pytest.warns(UserWarning, match=r"the training of process \d+ here ended without a message"):
        result = train(tmp_path, resume=True)
    assert result.epochs_done == 4
    assert not (tmp_path / RUNNING).exists()
    assert same_tensors(unbroken / LAST, tmp_path / LAST)
    assert same_tensors(unbroken / BEST, tmp_path / BEST)


@pytest.mark.slow
def test_a_crash_is_told_with_its_place(tmp_path: Path) -> None:
    """An uncaught signal leaves the threads' traceback and advice on stderr; the next training says it too."""
    command = [sys.executable, "-m", "sepnas", "train", "resnext11_2x4d", "-n", "2", "--threads", "1", "--epochs", "99"]
    with subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "run" / LAST).exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGSEGV)
        _, said = running.communicate(timeout=PROCESS_S)
    assert running.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in said
    assert "train_network" in said
    assert f"run: the training of process {running.pid} here ended without a message; if nobody stopped it" in said
    assert (tmp_path / "run" / RUNNING).exists()


def test_ends_of_processes_have_words() -> None:
    """A code is a code; a signal has its name, and what it usually means."""
    assert how_it_ended(3) == "it ended with code 3"
    assert how_it_ended(-signal.SIGKILL) == "SIGKILL ended it: someone killed it, or the system did for want of memory"
    assert "SIGSEGV ended it: a library crashed" in how_it_ended(-signal.SIGSEGV)


@pytest.fixture
def saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr("sepnas.train.loop.CHECKPOINT_S", 0.0)


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "schedule": "cosine", "optimizer": "adamw", "learning_rate": 0.01, "ema_decay": 0.9, "mixup": 0.8,
        "cutmix": 1.0, "device_dropout": 0.3, "augmentation": {"crop_padding": 1, "flip": True, "autoaugment": "svhn"},
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("at", [2, 7])
def test_a_run_cut_within_an_epoch_resumes_bit_for_bit(
    at: int, changes: str, tmp_path: Path, saved_often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an epoch that was begun nothing is repeated but what came since the last checkpoint, and all comes out as in
    a run that was never cut and never saved within an epoch: weights, optimizer, average, mean loss."""
    recipe = Recipe.from_data(RECIPE.to_data() | {"epochs": 2} | CHANGES[changes])
    cut = 0

    def cutting(self: Optimization, loss: Tensor) -> None:
        nonlocal cut
        cut += 1
        if cut == at:
            raise KeyboardInterrupt
        take_step(self, loss)

    take_step = Optimization.step
    monkeypatch.setattr(Optimization, "step", cutting)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, network=dropping())
    assert steps_begun(tmp_path / "cut") == (at - 1) % 4
    resumed = train(tmp_path / "cut", recipe, network=dropping(), resume=True)
    assert cut == 8 + 1
    monkeypatch.undo()
    whole = train(tmp_path / "whole", recipe, network=dropping())
    assert same_tensors(tmp_path / "cut" / LAST, tmp_path / "whole" / LAST)
    assert same_tensors(tmp_path / "cut" / BEST, tmp_path / "whole" / BEST)
    assert [x.train_loss for x in resumed.history] == [x.train_loss for x in whole.history]
    assert steps_begun(tmp_path / "cut") == 0


def test_a_long_epoch_stops_when_its_time_is_up(unbroken: Path, tmp_path: Path, saved_often: None) -> None:
    """It stops at a checkpoint, with no epoch done, and comes to its end in pieces as an unbroken run does."""
    result = train(tmp_path, stop_after_s=0)
    assert (result.finished, result.history, steps_begun(tmp_path)) == (False, (), 1)
    assert result.reached == "step 1 of epoch 1"
    for _ in range(16):
        result = train(tmp_path, stop_after_s=0, resume=True)
    assert result.finished
    assert same_tensors(unbroken / LAST, tmp_path / LAST)


def test_two_trainings_do_not_share_a_folder(unbroken: Path, tmp_path: Path) -> None:
    """The one that comes second is refused, and the first one goes on undisturbed."""
    refused: list[str] = []

    def second(loss: Tensor) -> Tensor:
        with pytest.raises(TrainingError, match="another process is training here") as caught:
            train(tmp_path, resume=True)
        refused.append(str(caught.value))
        return loss

    train(tmp_path, step=with_loss(6, second))
    assert str(tmp_path) in refused[0]
    assert same_tensors(unbroken / LAST, tmp_path / LAST)


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    """A file that was being written, and the history of a run whose checkpoint is gone, are not there any more."""
    (tmp_path / f".{LAST}.abc.part").touch()
    (tmp_path / HISTORY).write_text("of another run")
    train(tmp_path, stop_after_s=0)
    assert not list(tmp_path.glob(".*"))
    assert len(read_history(tmp_path)) == 1


def test_what_is_said_of_a_run_cut_within_an_epoch(
    tmp_path: Path, saved_often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C, a loss that is no number and a folder that holds it name the step of the last checkpoint; the bar of a
    resumed run begins there."""

    def interrupt(loss: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, step=with_loss(3, interrupt), progress=True)
    last = f"the last good checkpoint is {tmp_path / LAST} (step 2 of epoch 1)"
    assert f"{last}: resume to continue after step 2 of epoch 1" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="holds a run already"):
        train(tmp_path)
    with pytest.raises(TrainingError, match=r"epoch 1, step 3 of 4; .*, in another folder; .*\(step 2 of epoch 1\)"):
        train(tmp_path, step=with_loss(1, lambda loss: loss * float("nan")), resume=True)
    with pytest.raises(TrainingError, match="after its first epoch"):
        read_history(tmp_path)
    assert epochs_of(tmp_path) == (0, 4)
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        task = train(tmp_path, progress=progress, resume=True) and progress.tasks[0]
    assert (task.completed, task.total) == (16, 16)


def test_a_kill_between_best_and_last_loses_nothing(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch whose last weights were not written is repeated, and its best weights are there in the end."""
    write = checkpoint.write_checkpoint
    calls: list[str] = []

    def dying(path: Path, *rest: Any) -> None:
        calls.append(path.name)
        if calls.count(BEST) == 1 and path.name == LAST:
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr("sepnas.train.run_files.write_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.undo()
    train(tmp_path, resume=True)
    assert same_tensors(unbroken / BEST, tmp_path / BEST)


def test_an_interrupt_says_how_to_go_on(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C passes through, names the last checkpoint, and the resumed run ends as an unbroken one."""

    def interrupt(loss: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, step=with_loss(6, interrupt), progress=True)
    said = capsys.readouterr().err
    assert "epoch 1/4" in said
    assert f"the last good checkpoint is {tmp_path / LAST} (epoch 1): resume to continue after epoch 1" in said
    train(tmp_path, resume=True)
    assert same_tensors(unbroken / LAST, tmp_path / LAST)


def test_a_callers_progress_bar_moves_by_steps(tmp_path: Path) -> None:
    """A rich progress that is handed in gets one task, which ends complete and names the epoch."""
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        train(tmp_path, progress=progress)
    (task,) = progress.tasks
    assert (task.completed, task.total) == (16, 16)
    assert task.description.startswith("epoch 4/4, validation ")


def test_a_finished_run_resumes_to_its_result(unbroken: Path) -> None:
    """Nothing is trained again; the network gets the last weights."""
    before = (unbroken / LAST).stat().st_mtime_ns
    network, data = new_network(small_architecture(), 2), small_data()
    result = train(unbroken, network=network, resume=True)
    assert result.finished
    assert (unbroken / LAST).stat().st_mtime_ns == before
    assert accuracy(network, data.val, data) == result.history[-1].val_accuracy


def test_resume_without_a_checkpoint_starts(tmp_path: Path) -> None:
    """A run killed before its first checkpoint is begun again."""
    assert train(tmp_path, resume=True, stop_after_s=0).epochs_done == 1


def test_a_run_is_not_overwritten_unasked(unbroken: Path) -> None:
    """Training into a folder that holds a run is refused unless it is resumed."""
    with pytest.raises(TrainingError, match=r"holds a run already.*resume=True.*or remove"):
        train(unbroken)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 3}, "`seed` is 0 there, 3 here"),
        ({"recipe": RECIPE.model_copy(update={"epochs": 9})}, "`recipe.epochs` is 4 there, 9 here"),
        ({"network": new_network(small_architecture(depth=20))}, "`architecture.depth` is 11 there, 20 here"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, "`architecture` is "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(options: dict[str, Any], named: str, unbroken: Path) -> None:
    """The message names what differs, and both values."""
    with pytest.raises(CheckpointError) as caught:
        train(unbroken, **options, resume=True)
    assert named in str(caught.value)
    assert str(unbroken / LAST) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "foreign"])
def test_a_damaged_checkpoint_is_refused(damage: str, unbroken: Path, tmp_path: Path) -> None:
    """Cut short, one bit changed, empty, or something else: each is named, and none crashes."""
    data = bytearray((unbroken / BEST).read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    foreign = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
    kinds: dict[str, bytes | bytearray] = {
        "cut": data[:-40],
        "flip": data,
        "empty": b"",
        "text": b"not a checkpoint",
        "foreign": foreign,
    }
    (tmp_path / BEST).write_bytes(kinds[damage])
    (tmp_path / LAST).write_bytes(kinds[damage])
    (tmp_path / ARCHITECTURE).write_bytes((unbroken / ARCHITECTURE).read_bytes())
    with pytest.raises(CheckpointError, match=r"best\.safetensors: damaged"):
        load_network(tmp_path)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: damaged"):
        train(tmp_path, resume=True)


def test_a_checkpoint_holds_tensors_and_json_only(unbroken: Path) -> None:
    """The files are safetensors, with no byte of a pickle's protocol head, and the header is JSON."""
    for name in (LAST, BEST):
        data = (unbroken / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["run"])
        assert not data.startswith((b"\x80", b"PK"))
    assert not [path for path in unbroken.iterdir() if path.suffix in (".pt", ".pth", ".pkl")]
    with safe_open(str(unbroken / LAST), framework="pt") as file:
        assert any(key.startswith("momentum_buffer/") for key in file.keys())  # noqa: SIM118 (no mapping)


def test_a_network_loads_from_its_folder_and_from_either_file(unbroken: Path) -> None:
    """The folder means the best epoch; the weights are loaded strictly, in eval mode."""
    best, last = load_network(unbroken), load_network(unbroken / LAST)
    assert not best.training
    assert best.architecture == last.architecture == small_architecture()
    assert torch.equal(
        best.state_dict()["stem.layer.conv.weight"], load_file(unbroken / BEST)["stem.layer.conv.weight"]
    )


def test_weights_of_another_network_are_refused(unbroken: Path, tmp_path: Path) -> None:
    """A missing tensor and a wrong shape are named."""
    (tmp_path / BEST).write_bytes((unbroken / BEST).read_bytes())
    with pytest.raises(CheckpointError, match=r"architecture\.json: no such file"):
        load_network(tmp_path)
    small_architecture(depth=20).save(tmp_path / ARCHITECTURE)
    with pytest.raises(CheckpointError, match=r"tensor 'parts\.0\.1\..* is in the checkpoint, not in the network"):
        load_network(tmp_path)
    small_architecture(num_classes=5).save(tmp_path / ARCHITECTURE)
    with pytest.raises(CheckpointError, match="has shape"):
        load_network(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(value: float, tmp_path: Path) -> None:
    """The message names epoch, step and the last good checkpoint, which is whole."""
    with pytest.raises(
        TrainingError, match=r"in epoch 2, step 3 of 4; .*another folder.*last\.safetensors \(epoch 1\)"
    ):
        train(tmp_path, step=with_loss(7, lambda loss: loss * value))
    assert load_network(tmp_path)
    with pytest.raises(TrainingError, match="of the recipe; no checkpoint has been written yet"):
        train(tmp_path / "first", step=with_loss(1, lambda loss: loss * value))
    assert train(tmp_path / "first", RECIPE.model_copy(update={"learning_rate": 0.01}), stop_after_s=0).epochs_done == 1


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    """The last step of an epoch can break the weights without a bad loss: that epoch has no checkpoint."""

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * float("nan")

    with pytest.raises(TrainingError, match=r"no longer finite after epoch 2.*\(epoch 1\)"):
        train(tmp_path, step=with_loss(8, Explode.apply))
    assert all(x.isfinite().all() for x in load_file(tmp_path / LAST).values())


@pytest.mark.parametrize("place", ["loop.Batches", "loop.accuracy"])
def test_a_full_device_memory_names_a_batch_size_to_try(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the recipe's batch is proposed, and of one image another device: in a step, before, and after it."""

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match=r"batches of 16 images; try `batch_size` 8"):
        train(tmp_path / "step", step=with_loss(1, full))
    pairs, single = (RECIPE.model_copy(update={"batch_size": size}) for size in (2, 1))
    with pytest.raises(TrainingError, match=r"batches of 2 images; try `batch_size` 1 .*in another folder"):
        train(tmp_path / "later", pairs, step=with_loss(26, full))
    with pytest.raises(TrainingError, match=r"batches of 1 images; use another device; no checkpoint"):
        train(tmp_path / "one", single, step=with_loss(1, full))
    monkeypatch.setattr(f"sepnas.train.{place}", full)
    with pytest.raises(TrainingError, match=r"batches of 16 images; try `batch_size` 8"):
        train(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_full_disk_names_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of the epoch before stays whole, nothing half-written is left, and the run resumes from it."""
    train(tmp_path, stop_after_s=0)
    before = (tmp_path / LAST).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sepnas.train.checkpoint.os.fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; the last good checkpoint is .* \(epoch 1\)"):
        train(tmp_path, resume=True)
    assert (tmp_path / LAST).read_bytes() == before
    assert not list(tmp_path.glob("**/*.part"))
    monkeypatch.undo()
    assert train(tmp_path, resume=True).finished


def test_a_full_disk_is_told_before_the_first_step_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resumed run writes first names the last good checkpoint as well."""
    train(tmp_path, stop_after_s=0)

    def full(*arguments: Any) -> None:
        raise StorageError(f"{tmp_path / HISTORY}: cannot be written: No space left on device")

    monkeypatch.setattr("sepnas.train.run_files.write_history", full)
    with pytest.raises(StorageError, match=r"No space left on device; the last good checkpoint is .* \(epoch 1\)"):
        train(tmp_path, resume=True)


def test_tensorboards_own_thread_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot write there is our one message, and no traceback of a thread around it; others still tell."""
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    record = EpochRecord(1, 1.0, 0.5, 0.1, 10.0, 1.0)

    def draw() -> None:
        with Curves(tmp_path, 1) as curves:
            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
            other = threading.Thread(target=full, name="other")
            other.start()
            other.join()
            curves.add(record)

    with pytest.raises(StorageError, match="No space left on device"):
        draw()
    assert [found.thread.name for found in told if found.thread] == ["other"]


def test_weights_without_a_run_are_not_written_over(unbroken: Path, tmp_path: Path) -> None:
    """A folder that holds ``best.safetensors`` alone, as one that was copied, is refused as a whole run is."""
    (tmp_path / BEST).write_bytes((unbroken / BEST).read_bytes())
    with pytest.raises(TrainingError, match=r"best\.safetensors: holds weights that would be overwritten"):
        train(tmp_path)
    assert (tmp_path / BEST).read_bytes() == (unbroken / BEST).read_bytes()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"size": 16}, r"has 16 pixels a side, .* `image_size` 8"),
        ({"channels": 3}, r"has 3 channels, .* `in_channels` 1"),
        ({"classes": 4}, r"has 4 classes, .* `num_classes` 3"),
    ],
)
def test_data_that_do_not_fit_the_architecture_are_refused(data: dict[str, int], named: str, tmp_path: Path) -> None:
    """Size, channels and classes: both numbers are named, and nothing is written."""
    with pytest.raises(TrainingError, match=named):
        train(tmp_path / "run", data=small_data(**data))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used: training runs on cpu and cuda"),
        ({"seed": -1}, r"`seed` must lie in 0\.\.4294967295, got -1"),
        ({"recipe": Recipe(epochs=1, augmentation=Augmentation(crop_padding=8))}, "`crop_padding` 8 .* below 8"),
        ({"recipe": Recipe(epochs=1, batch_size=1), "size": 4}, "`batch_size` 1 makes batches of one image"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing_behind(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Device, seed, crop and batch are checked, by name and value, before anything is written."""
    if size := options.pop("size", None):
        options |= {"data": small_data(size=size), "network": new_network(small_architecture(image_size=size))}
    with pytest.raises(TrainingError, match=named):
        train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_of_more_than_32_bits_makes_no_network(seed: int) -> None:
    """Weights depend on a seed that every library takes."""
    with pytest.raises(TrainingError, match=f"got {seed}"):
        new_network(small_architecture(), seed)


def test_the_history_is_read_as_it_was_written(unbroken: Path) -> None:
    """Reading gives the records of the result."""
    assert read_history(unbroken) == train(unbroken, resume=True).history
    assert epochs_of(unbroken) == (4, 4)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"epoch": 2', "Invalid JSON"),
        ('{"epoch": 2}', "`train_loss`: Field required"),
        ("\udcff", "Invalid JSON"),
        ("", "Invalid JSON"),
        (None, "is epoch 3, expected 2"),
    ],
)
def test_a_damaged_history_is_named_and_resuming_mends_it(line: str | None, named: str, tmp_path: Path) -> None:
    """The message names file and line; the checkpoint holds the history too."""
    history = train(tmp_path).history
    path = tmp_path / HISTORY
    lines = path.read_text().splitlines()
    lines[1:2] = [] if line is None else [line]
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with pytest.raises(TrainingError, match=rf"history\.jsonl: line 2: .*{named}.*resume the training"):
        read_history(tmp_path)
    train(tmp_path, resume=True)
    assert read_history(tmp_path) == history
    path.unlink()
    with pytest.raises(TrainingError, match=r"history\.jsonl: No such file"):
        read_history(tmp_path)


def test_an_interrupted_run_knows_its_data(tmp_path: Path) -> None:
    """What an export needs stands in the folder from the start, and how far the run came."""
    train(tmp_path, stop_after_s=0)
    assert DataFacts.load(tmp_path / DATA).classes == small_data().classes
    assert epochs_of(tmp_path) == (1, 4)


def test_a_step_of_the_callers_own_draws_from_seed_and_epoch(tmp_path: Path) -> None:
    """A custom step gets normalised images and a generator that repeats with the epoch, resumed or not."""
    drawn: list[float] = []

    def step(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        assert images.dtype == torch.float32
        drawn.append(float(torch.rand((), generator=generator)))
        return functional.cross_entropy(network(images), labels)

    train(tmp_path / "whole", step=step)
    whole, drawn = drawn, []
    train(tmp_path / "parts", step=step, stop_after_s=0)
    train(tmp_path / "parts", step=step, resume=True)
    assert drawn == whole
    assert len(set(whole)) == 16


def test_bf16_trains_the_fp32_weights(tmp_path: Path) -> None:
    """Autocast runs the step in bf16; weights and loss stay fp32 and finite, and it resumes bit for bit."""
    recipe = RECIPE.model_copy(update={"epochs": 2, "precision": "bf16", "channels_last": True})
    seen: set[torch.dtype] = set()

    def step(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        logits = network(images)
        seen.add(logits.dtype)
        return functional.cross_entropy(logits, labels)

    train(tmp_path / "whole", recipe, step=step)
    train(tmp_path / "parts", recipe, step=step, stop_after_s=0)
    train(tmp_path / "parts", recipe, step=step, resume=True)
    assert seen == {torch.bfloat16}
    assert load_file(tmp_path / "whole" / LAST)["stem.layer.conv.weight"].dtype == torch.float32
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)


def mean_architecture(**changes: Any) -> Architecture:
    """Both devices have the classifier."""
    return small_architecture(**changes).with_policy(
        small_architecture().policy.model_copy(update={"readout": Readout(kind="mean")})
    )


ALONE = {"parts": [{"bottleneck_width": 2, "output_channels": 4}], "policy": {}}
DROPOUT = RECIPE.model_copy(update={"epochs": 2, "device_dropout": 0.3, "message_dropout": 0.2})


def test_a_training_without_dropout_is_what_it_was(unbroken: Path, tmp_path: Path) -> None:
    """Bit for bit the training of a step that knows of no dropout, and a recipe that does not speak of it."""

    def step(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return functional.cross_entropy(network(images), labels)

    train(tmp_path, step=step)
    assert same_tensors(unbroken / LAST, tmp_path / LAST)
    assert (unbroken / HISTORY).read_text().count("loss") == 4
    with safe_open(str(unbroken / LAST), "pt") as file:
        assert "dropout" not in file.metadata()["run"]
    assert not any("dropout" in key for key in RECIPE.to_data())


def test_a_training_that_loses_devices_resumes_bit_for_bit(tmp_path: Path) -> None:
    """What is lost derives from seed and epoch; another share is another training, also to a resumed one."""
    network = [new_network(mean_architecture(), 1) for _ in range(5)]
    train(tmp_path / "whole", DROPOUT, network=network[0])
    train(tmp_path / "parts", DROPOUT, network=network[1], stop_after_s=0)
    train(tmp_path / "parts", DROPOUT, network=network[2], resume=True)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)
    train(tmp_path / "none", RECIPE.model_copy(update={"epochs": 2}), network=network[3])
    assert not same_tensors(tmp_path / "whole" / LAST, tmp_path / "none" / LAST)
    with pytest.raises(CheckpointError, match=r"`recipe.device_dropout` is 0.3 there, None here"):
        train(tmp_path / "whole", DROPOUT.changed("", device_dropout=0.0), network=network[4], resume=True)


@pytest.mark.parametrize(
    ("architecture", "recipe", "named"),
    [
        (ALONE, {"device_dropout": 0.1}, "one device"),
        (ALONE, {"message_dropout": 0.1}, "one device"),
        ({"image_size": 4}, {"device_dropout": 0.1}, "images of 4 pixels"),
    ],
)
def test_nothing_to_lose_is_refused(
    architecture: dict[str, Any], recipe: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """Dropout of devices needs several, and images whose batch norms can do with one of them."""
    found = small_architecture(**architecture)
    data, (field,) = small_data(size=found.image_size), recipe
    with pytest.raises(TrainingError, match=rf"`{field}` .*{named}"):
        train(tmp_path / "run", RECIPE.model_copy(update=recipe), network=new_network(found), data=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dropout_serves_a_network_that_loses_devices(tmp_path: Path) -> None:
    """Trained on digits without devices now and then, the mean over all ways to lose two of three is far better."""
    data = load_dataset("digits")
    part = {"bottleneck_width": 4, "output_channels": 8}
    pairs = [{"source": s, "destination": d} for s in range(3) for d in range(3) if s != d]
    policy = {"points": [{"after": 0, "transfers": pairs}], "readout": {"kind": "mean"}}
    architecture = small_architecture(num_classes=10, parts=[part] * 3, policy=policy)
    found = []
    for share in (0.0, 0.3):
        recipe = RECIPES["digits"].changed("", epochs=6, device_dropout=share)
        train(tmp_path / f"{share}", recipe, network=new_network(architecture, 0), data=data)
        found.append(accuracy_with_lost(load_network(tmp_path / f"{share}"), data.val, data, 2))
    assert found[1] > found[0] + 0.1


def test_accuracy_with_lost_devices_is_the_mean_over_all_ways(tmp_path: Path) -> None:
    """Of each subset that leaves an answer; none lost is the accuracy; all lost is refused."""
    data = small_data()
    mean, single = new_network(mean_architecture(), 3).eval(), new_network(small_architecture(), 3).eval()
    assert accuracy_with_lost(mean, data.val, data, 0) == accuracy(mean, data.val, data)
    each = [accuracy(mean, data.val, data, lost={rank}) for rank in range(2)]
    assert accuracy_with_lost(mean, data.val, data, 1) == pytest.approx(sum(each) / 2)
    assert accuracy_with_lost(single, data.val, data, 1) == accuracy(single, data.val, data, lost={1})
    assert not torch.equal(
        predict_logits(single, data.val.images, data), predict_logits(single, data.val.images, data, lost={1})
    )
    with pytest.raises(TrainingError, match=r"`num_lost` must lie in 0\.\.1, .*got 2"):
        accuracy_with_lost(mean, data.val, data, 2)


def test_logits_are_those_of_eval_mode_whatever_the_batch(unbroken: Path) -> None:
    """Evaluation leaves the network's mode alone and does not depend on how images are batched."""
    network, data = load_network(unbroken).train(), small_data()
    whole = predict_logits(network, data.test.images, data)
    parts = predict_logits(network, data.test.images, data, batch_size=7)
    assert network.training
    assert whole.shape == (30, 3)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert accuracy(network, data.test, data) == pytest.approx(
        float((whole.argmax(1) == data.test.labels).double().mean())
    )


def test_the_test_split_is_never_read(tmp_path: Path) -> None:
    """A test split of rubbish changes nothing and disturbs nothing."""
    data = small_data()
    rubbish = Split(torch.empty(0), torch.full((1,), 99))
    poor = ImageData(data.name, data.classes, data.train, data.val, rubbish, data.mean, data.std)
    train(tmp_path / "poor", data=poor, stop_after_s=0)
    train(tmp_path / "good", data=data, stop_after_s=0)
    assert same_tensors(tmp_path / "poor" / LAST, tmp_path / "good" / LAST)


def test_training_learns_digits(tmp_path: Path) -> None:
    """A few epochs on a slice of the digits bring a small separable network far above chance (10 %)."""
    data = load_dataset("digits")
    network = new_network(small_architecture(num_classes=10), 0)
    recipe = RECIPES["digits"].model_copy(update={"epochs": 5})
    assert train(tmp_path, recipe, network=network, data=data).best_accuracy > 0.6


@pytest.mark.parametrize("name", list(RECIPES))
def test_named_recipes_round_trip(name: str, tmp_path: Path) -> None:
    """Each recipe is the same after it was written and read, as YAML and as JSON."""
    for suffix in ("yaml", "json"):
        path = RECIPES[name].save(tmp_path / f"recipe.{suffix}")
        assert load_recipe(str(path)) == load_recipe(name) == RECIPES[name]


def test_the_papers_recipe_is_the_papers() -> None:
    """SGD 0.1, momentum 0.9, weight decay 5e-4, batches of 128, 200 epochs, a tenth at 50, 100 and 150."""
    recipe = RECIPES["paper"]
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 5e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.milestones, recipe.milestone_factor) == (
        128,
        200,
        (50, 100, 150),
        0.1,
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 0}, "`epochs`"),
        ({"batch_size": "many"}, "`batch_size`"),
        ({"learning_rte": 0.1}, "`learning_rte`: unknown key; allowed: format, version, name, optimizer"),
        ({"milestones": [2]}, "belong to the schedule 'step'"),
        ({"schedule": "step", "milestones": [3, 2]}, "must rise"),
        ({"momentum": 0.0}, "`nesterov` needs a `momentum`"),
        ({"device_dropout": 1.0}, "`device_dropout`: must be less than 1, got 1.0"),
        ({"message_dropout": -0.1}, "`message_dropout`"),
        ({"version": 2}, "update sepnas"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, Any], named: str) -> None:
    """The message names the field and what is allowed."""
    with pytest.raises(SpecError) as caught:
        Recipe.from_data(RECIPE.to_data() | change, "recipe.yaml")
    assert named in str(caught.value)


def test_an_unknown_recipe_is_refused() -> None:
    """The message lists the names there are."""
    names = "digits, cifar-fast, cifar-muon, cifar-sgd, large-images, finetune, separate, modern, paper"
    with pytest.raises(SpecError, match=names):
        load_recipe("fast")


def test_the_step_schedule_divides_after_its_milestones(tmp_path: Path) -> None:
    """The learning rate of each epoch is the recipe's, times the factor for each milestone passed."""
    recipe = Recipe.from_data(RECIPE.to_data() | {"schedule": "step", "milestones": [1, 3]})
    rates = [record.learning_rate for record in train(tmp_path, recipe).history]
    assert rates == pytest.approx([0.05, 0.005, 0.005, 0.0005])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(-(2**40), 2**40), epoch=st.integers(1, 10_000))
def test_epochs_have_seeds_of_their_own(seed: int, epoch: int) -> None:
    """The seed of an epoch is a valid one for torch and differs from the next epoch's and the next run's."""
    own = derived_seed(seed, epoch)
    torch.Generator().manual_seed(own)
    assert len({own, derived_seed(seed, epoch + 1), derived_seed(seed + 1, epoch)}) == 3
