"""The files of a training run: its identity, its progress and the state to resume from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepnas.errors import CheckpointError, StorageError, TrainingError
from sepnas.options import option
from sepnas.partition.graph import GRAPH_NAME, Graph
from sepnas.separable.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.spec.folder_lock import held
from sepnas.spec.reading import read_document
from sepnas.train.average import WeightAverage
from sepnas.train.checkpoint import (
    ARCHITECTURE,
    BEST,
    DATA,
    LAST,
    check_identity,
    is_there,
    read_checkpoint,
    restore_network,
    write_checkpoint,
)
from sepnas.train.ended import noted_while_running
from sepnas.train.images import ImageData
from sepnas.train.optimize import Optimization
from sepnas.train.recipe import Recipe
from sepnas.train.record import HISTORY, EpochRecord, best_of, history_to_data, write_history

_LOSSES = "epoch/losses"


@dataclass(frozen=True)
class Reached:
    """The progress of a run: its finished epochs, and the step losses and training time of an unfinished one."""

    history: tuple[EpochRecord, ...] = ()
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    trained_s: float = 0.0

    def __str__(self) -> str:
        done, steps = len(self.history), len(self.losses)
        return f"step {steps} of epoch {done + 1}" if steps else f"epoch {done}"

    def __bool__(self) -> bool:
        return bool(self.history) or len(self.losses) > 0


@dataclass
class RunState:
    """All state that training changes; restored bit for bit."""

    network: nn.Module
    optimization: Optimization
    average: WeightAverage | None

    @property
    def result(self) -> nn.Module:
        """The network to validate and save: the average of the weights if the recipe has one, else the network."""
        return self.average.network if self.average else self.network

    def tensors(self) -> dict[str, Tensor]:
        average = self.average.tensors() if self.average else {}
        return self.network.state_dict() | self.optimization.tensors() | average

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], where: Path) -> None:
        restore_network(self.network, tensors, where)
        self.optimization.restore(tensors, numbers)
        if self.average:
            self.average.restore(tensors, where)


class RunFiles:
    """The folder of a run; a resumed run must have the same ``identity``. Writes files only if ``writes`` is set.

    ``best`` is the name of the file of the best weights.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], state: RunState, writes: bool, best: str = BEST
    ) -> None:
        self.folder, self._identity, self._state, self._writes = folder, identity, state, writes
        self.best = folder / best
        self.saved = Reached()
        """Progress in the last checkpoint."""
        self._saved_at = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved_at

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder against other trainings, which would overwrite its files.

        Raises :class:`TrainingError` if another training is running, :class:`StorageError` if there can be no folder.
        """
        with ExitStack() as stack:
            if self._writes:
                stack.enter_context(held(self.folder, "training", TrainingError))
                stack.enter_context(noted_while_running(self.folder))
            yield

    def begin(self, resume: bool, beside: Mapping[str, str]) -> None:
        """Restore the last checkpoint, if there is one, and remove partial files left by a kill.

        A resumed run must have the same texts ``beside`` its weights. What is refused changes no file.
        """
        last = self.folder / LAST
        if is_there(last):
            if not resume:
                raise TrainingError(
                    f"{last}: holds a run already; resume it with {option('--resume', 'resume=True')}, choose another "
                    f"folder, or remove {self.folder} to start again"
                )
            self._restore(last)
            self._check_beside(beside)
        elif is_there(self.best) and not resume:
            raise TrainingError(
                f"{self.best}: holds weights that would be overwritten; choose another folder, or remove it"
            )
        if self._writes:
            for path in self.folder.glob(".*.part"):
                path.unlink()
            with self.explained():
                self._write_history()

    def _check_beside(self, beside: Mapping[str, str]) -> None:
        for name, text in beside.items():
            file = self.folder / name
            if is_there(file) and read_document(file) != text.encode():
                raise CheckpointError(
                    f"{file}: belongs to another run, which would have another one; resume with the same values, "
                    f"choose another folder, or remove {self.folder} to start again"
                )

    def _restore(self, last: Path) -> None:
        tensors, meta = read_checkpoint(last)
        if "identity" not in meta:
            raise CheckpointError(f"{last}: holds weights only, no run to resume")
        try:
            check_identity(meta["identity"], _as_known(self._identity, meta["identity"]), last)
            self._state.restore(tensors, meta["optimizer"], last)
            history = tuple(EpochRecord(**line) for line in meta["history"])
            trained_s = float(meta.get("trained_s", 0.0))
        # any error of an optimizer about counters and shapes that it never wrote
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"{last}: damaged: its run cannot be restored: {type(error).__name__}: {error}; train again in another "
                "folder, or remove it to start afresh"
            ) from error
        self.saved = Reached(history, tensors.get(_LOSSES, torch.zeros(0)), trained_s)

    def save_epoch(self, reached: Reached) -> None:
        """Write the best checkpoint, then the last: a kill in between repeats work instead of losing weights.

        Raises :class:`StorageError` that names the last good checkpoint.
        """
        record = reached.history[-1]
        if self._writes and best_of(reached.history) is record:
            about = {"epoch": record.epoch, "val_accuracy": record.val_accuracy}
            self._write(self.best.name, self._state.result.state_dict(), about)
        self.save_steps(reached)
        if self._writes:
            with self.explained():
                self._write_history()

    def save_steps(self, reached: Reached) -> None:
        """Save the state of the run, after any step. Raises :class:`StorageError`."""
        if self._writes:
            numbers = {"optimizer": self._state.optimization.numbers(), "trained_s": reached.trained_s}
            about = numbers | {"history": history_to_data(reached.history), "identity": self._identity}
            losses = {_LOSSES: reached.losses} if len(reached.losses) else {}
            self._write(LAST, self._state.tensors() | losses, about)
        self.saved, self._saved_at = reached, time.monotonic()

    def _write_history(self) -> None:
        """Write the history, if an epoch has finished."""
        if self.saved.history:
            write_history(self.folder, self.saved.history)
        else:
            (self.folder / HISTORY).unlink(missing_ok=True)

    def _write(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        with self.explained():
            write_checkpoint(self.folder / name, tensors, about)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Make a :class:`StorageError` within the block name the last good checkpoint."""
        try:
            yield
        except StorageError as error:
            raise StorageError(f"{error}; {self.last_good()}; make room, then resume") from error

    def last_good(self) -> str:
        if not self.saved:
            return "no checkpoint has been written yet"
        return f"the last good checkpoint is {self.folder / LAST} ({self.saved})"


def describe_run(folder: Path, architecture: Architecture, data: ImageData) -> None:
    """Write the files that an export needs besides the weights. Raises :class:`StorageError`."""
    architecture.save(folder / ARCHITECTURE)
    _facts_of(data).save(folder / DATA)


def describe_graph_run(folder: Path, graph: Graph, data: ImageData) -> None:
    """Write the files that make the folder one of an imported network, besides the weights; see above."""
    graph.save(folder / GRAPH_NAME)
    _facts_of(data).save(folder / DATA)


def _facts_of(data: ImageData) -> DataFacts:
    return DataFacts(
        name=data.name, classes=data.classes, mean=data.mean, std=data.std, resize=data.resize,
        content_sha256=data.sha256,
    )  # fmt: skip


def identity_of(
    architecture: Architecture | None, recipe: Recipe, seed: int, data: ImageData, **rest: Any
) -> dict[str, Any]:
    """The values that must match to resume a run; includes the truthy ones of ``rest``."""
    return {key: value for key, value in rest.items() if value} | {
        "architecture": architecture.to_data() if architecture else None,
        "recipe": recipe.to_data(),
        "seed": seed,
        "data": {
            "classes": list(data.classes),
            "content_sha256": data.sha256[:16],
            "training_images": list(data.train.images.shape),
            "mean": list(data.mean),
            "std": list(data.std),
        },
    }


def _as_known(identity: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The identity in the older form without a content digest, if the saved one has no digest."""
    data = dict(identity["data"])
    if "content_sha256" not in saved["data"]:
        del data["content_sha256"]
    return {**identity, "data": data}


def steps_begun(folder: Path) -> int:
    """The number of steps of an unfinished epoch in a run's last checkpoint; 0 if there is none."""
    if not is_there(folder / LAST):
        return 0
    tensors, _ = read_checkpoint(folder / LAST)
    return len(tensors.get(_LOSSES, ()))
