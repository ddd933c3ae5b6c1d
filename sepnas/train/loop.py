"""The training loop: any network from images to logits, from a seed, resumed bit for bit.

Everything random in an epoch (the order of the images, their augmentation, what a step samples) derives from the
seed and the epoch's number. A checkpoint after each epoch is therefore all that there is to restore: a run that was
killed or stopped ends with the same weights as an unbroken one on the same machine, threads and versions.

The test split is never looked at here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from sepnas.errors import CheckpointError, StorageError, TrainingError
from sepnas.nets.separable import SeparableResNeXt
from sepnas.spec.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.train.average import WeightAverage
from sepnas.train.batches import Batches
from sepnas.train.checkpoint import (
    ARCHITECTURE,
    BEST,
    DATA,
    LAST,
    check_identity,
    read_checkpoint,
    restore_network,
    write_checkpoint,
)
from sepnas.train.checks import check_shares, check_trainable
from sepnas.train.curves import Curves
from sepnas.train.display import TrainingDisplay
from sepnas.train.distill import Teachers
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.optimize import Optimization
from sepnas.train.processes import Processes, processes_of
from sepnas.train.recipe import Distillation, Recipe
from sepnas.train.record import EpochRecord, TrainingResult, best_of, history_to_data, write_history
from sepnas.train.steps import Step, step_of

Validate = Callable[[nn.Module], float]
"""The accuracy that an epoch has reached, 0..1, by validation data."""

LOSS_CHECK_STEPS = 50
"""On an accelerator the losses are looked at this often: each look waits for it."""


def train_network(
    network: nn.Module,
    data: ImageData,
    recipe: Recipe,
    out_dir: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | bool = True,
    stop_after_s: float | None = None,
    step: Step | None = None,
    validate: Validate | None = None,
    teachers: Sequence[SeparableResNeXt] = (),
    start: str = "",
) -> TrainingResult:
    """Train ``network`` in place and write a checkpoint to ``out_dir`` after each epoch.

    ``network`` ends with the weights of the last epoch (their average, where the recipe has one), on ``device``; those
    of the best epoch by validation accuracy are in ``best.safetensors``
    (:func:`sepnas.train.checkpoint.load_network`). ``resume`` goes on from
    ``last.safetensors``, or starts when there is none. ``stop_after_s`` ends the run, unfinished, after the epoch in
    which the time runs out, or sooner when the next epoch would not fit. ``step`` replaces the loss of a batch, and the
    recipe's dropout of devices and messages with it; ``teachers`` are trained networks that it learns from as the
    recipe's ``distillation`` says; ``validate`` replaces the network's own accuracy on the validation
    split. ``start`` is a digest of the weights that the network began with, if these are not from the seed: who
    resumes must begin with the same.

    Started by ``torchrun``, the processes share each batch (:mod:`sepnas.train.processes`), and the first one writes.

    Raises :class:`TrainingError` (data that do not fit the architecture or the recipe, a seed beyond 32 bits, a loss
    that is not finite, a full device memory, a folder that holds a run while not resuming), :class:`CheckpointError`,
    :class:`StorageError`; a message about a run that had begun names the last good checkpoint.
    """
    processes, place = processes_of(pick_device(device))
    progress = progress if processes.first else False
    run = _Run(network, data, recipe, Path(out_dir), seed, place, step, teachers, start, processes)
    run.validate = validate or run.validate
    run.begin(resume)
    if processes.count > 1:
        processes.check_alike("epochs done", len(run.history))
        processes.check_alike("weights of sum", sum(float(x.detach().double().sum()) for x in network.parameters()))
    with ExitStack() as stack:
        stack.enter_context(run.interruptions_explained(progress is not False))
        display = stack.enter_context(TrainingDisplay(progress, recipe.epochs, len(run.history), run.steps))
        drawn = run.out_dir / "tensorboard" if processes.first else None
        curves = stack.enter_context(Curves(drawn, first_epoch=len(run.history) + 1))
        started = time.monotonic()
        for epoch in range(len(run.history) + 1, recipe.epochs + 1):
            record = run.epoch(epoch, display)
            run.save(record, curves)
            display.epoch(record, record.duration_s * (recipe.epochs - epoch))
            passed_s = processes.told(time.monotonic() - started + record.duration_s)
            if stop_after_s is not None and passed_s > stop_after_s:
                break
    if run.result is not network:
        network.load_state_dict(run.result.state_dict())
    return TrainingResult(run.out_dir, len(run.history) == recipe.epochs, run.history)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is some, else the CPU; raises :class:`TrainingError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("training runs on cpu and cuda")
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try 'auto' or 'cpu'"
        ) from None
    return device


def derived_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of a run, far from those of its neighbours."""
    digest = hashlib.sha256(f"sepnas training {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class _Run:
    """A training run between two checkpoints."""

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        recipe: Recipe,
        out_dir: Path,
        seed: int,
        device: torch.device,
        step: Step | None,
        teachers: Sequence[SeparableResNeXt],
        start: str,
        processes: Processes,
    ) -> None:
        found = getattr(network, "architecture", None)
        self.architecture = found if isinstance(found, Architecture) else None
        check_trainable(self.architecture, data, recipe, seed)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(device=device).to(memory_format=layout)  # type: ignore[call-overload]
        self.data, self.recipe, self.out_dir, self.seed, self.device = data, recipe, out_dir, seed, device
        self._start, self._processes = start, processes
        self._teachers = self._classroom(teachers)
        self._step = step or step_of(recipe, self._teachers)
        self.validate: Validate = lambda network: accuracy(network, data.val, data)
        self._batches = Batches(data, recipe, device, processes)
        self.steps = self._batches.steps
        check_shares(len(data.train) // self.steps, recipe, processes.count)
        self._optimization = Optimization(network, recipe, self.steps, processes)
        self._average = WeightAverage(self.network, recipe.ema_decay) if recipe.ema_decay else None
        self.history: tuple[EpochRecord, ...] = ()

    def _classroom(self, teachers: Sequence[SeparableResNeXt]) -> Teachers | None:
        if not teachers:
            if self.recipe.distillation:
                raise TrainingError("the recipe has `distillation`, but there is no teacher; name one (--teacher RUN)")
            return None
        if self.architecture is None:
            raise TrainingError("teachers teach separable networks only")
        return Teachers(teachers, self.recipe.distillation or Distillation(), self.architecture, self.device)

    def begin(self, resume: bool) -> None:
        """Restore the last checkpoint, if any, and write down what is going to be trained."""
        last = self.out_dir / LAST
        if last.exists():
            if not resume:
                raise TrainingError(
                    f"{last}: holds a run already; resume it (--resume, resume=True), choose another --out, "
                    f"or remove {self.out_dir} to begin anew"
                )
            self._restore(last)
            if self._processes.first:
                write_history(self.out_dir, self.history)
        if self.architecture and self._processes.first:
            self.architecture.save(self.out_dir / ARCHITECTURE)
            data = self.data
            facts = DataFacts(name=data.name, classes=data.classes, mean=data.mean, std=data.std)
            facts.save(self.out_dir / DATA)

    def _restore(self, last: Path) -> None:
        tensors, meta = read_checkpoint(last)
        if "identity" not in meta:
            raise CheckpointError(f"{last}: holds weights only, no run to resume")
        check_identity(meta["identity"], self._identity(), last)
        restore_network(self.network, tensors, last)
        self._optimization.restore(tensors, meta["optimizer"])
        if self._average:
            self._average.restore(tensors, last)
        self.history = tuple(EpochRecord(**line) for line in meta["history"])

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        rest: dict[str, Any] = {"teachers": self._teachers.identity()} if self._teachers else {}
        rest |= {"start": self._start[:16]} if self._start else {}
        rest |= {"processes": self._processes.count} if self._processes.count > 1 else {}
        return rest | {
            "architecture": self.architecture.to_data() if self.architecture else None,
            "recipe": self.recipe.to_data(),
            "seed": self.seed,
            "data": {
                "classes": list(self.data.classes),
                "training_images": list(self.data.train.images.shape),
                "mean": list(self.data.mean),
                "std": list(self.data.std),
            },
        }

    @property
    def result(self) -> nn.Module:
        """What is validated and kept: the average of the weights, where the recipe wants one."""
        return self._average.network if self._average else self.network

    def epoch(self, epoch: int, display: TrainingDisplay) -> EpochRecord:
        started = time.perf_counter()
        rate, losses = self._train(epoch, display)
        trained_s = time.perf_counter() - started
        self._processes.average_statistics(self.network)
        if self._average:
            self._processes.average_statistics(self._average.network)
        right = self._processes.told(self.validate(self.result) if self._processes.first else 0.0)
        return EpochRecord(
            epoch=epoch,
            train_loss=float(losses.double().mean()),
            val_accuracy=right,
            learning_rate=rate,
            images_per_s=len(self.data.train) / trained_s,
            duration_s=time.perf_counter() - started,
        )

    def _train(self, epoch: int, display: TrainingDisplay) -> tuple[float, Tensor]:
        """One pass over the training split; the last learning rate, all losses."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        order = torch.randperm(len(self.data.train), generator=generator)
        losses, rate, checked = torch.zeros(self.steps, device=self.device), 0.0, 0
        self.network.train()
        processes, step_seed = self._processes, int(torch.randint(2**62, (), generator=generator))
        if processes.count > 1:
            generator.manual_seed(processes.seed(step_seed))
        with _reproducible(self.device, processes.seed(step_seed)), self._memory_explained():
            for number, batch in enumerate(self._batches.of(order, generator)):
                rate = self._optimization.learning_rate
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                    loss = self._step(self.network, batch.images, batch.labels, generator)
                loss = processes.mean_loss(loss, len(batch.labels), batch.size)
                losses[number] = loss.detach()
                if self.device.type == "cpu" or number % LOSS_CHECK_STEPS == 0 or number + 1 == self.steps:
                    processes.average([losses[checked : number + 1]])
                    self._check_losses(losses[: number + 1], epoch)
                    checked = number + 1
                self._optimization.step(loss)
                if self._average:
                    self._average.follow(self.network, (epoch - 1) * self.steps + number + 1)
                display.step()
        return rate, losses

    def _check_losses(self, losses: Tensor, epoch: int) -> None:
        finite = losses.isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the loss is {float(losses[step])} in epoch {epoch}, step {step + 1} of {self.steps}; "
                f"{self._lower_rate()}"
            )

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            size = self.recipe.batch_size
            raise TrainingError(
                f"{self.device} has too little memory for batches of {size} images; try `batch_size` "
                f"{max(size // 2, 1)} in the recipe; {self._last_good()}"
            ) from error

    def save(self, record: EpochRecord, curves: Curves) -> None:
        """Best first, last after it: a kill in between repeats the epoch instead of losing its weights."""
        if not self._processes.first:
            self.history = (*self.history, record)
            return
        weights = self.network.state_dict()
        bad = [name for name, x in weights.items() if x.is_floating_point() and not bool(x.isfinite().all())]
        if bad:
            raise TrainingError(f"{bad[0]!r} is no longer finite after epoch {record.epoch}; {self._lower_rate()}")
        history = (*self.history, record)
        meta = {"history": history_to_data(history), "optimizer": self._optimization.numbers()}
        try:
            if best_of(history) is record:
                write_checkpoint(
                    self.out_dir / BEST,
                    self.result.state_dict(),
                    {"epoch": record.epoch, "val_accuracy": record.val_accuracy},
                )
            tensors = weights | self._optimization.tensors() | (self._average.tensors() if self._average else {})
            write_checkpoint(self.out_dir / LAST, tensors, meta | {"identity": self._identity()})
            self.history = history
            write_history(self.out_dir, history)
            curves.add(record)
        except StorageError as error:
            raise StorageError(f"{error}; {self._last_good()}; make room, then --resume") from error

    def _lower_rate(self) -> str:
        """What to do about numbers that ran away: another recipe is another run."""
        advice = f"try a lower `learning_rate` than {self.recipe.learning_rate:g} in the recipe"
        elsewhere = f", with another --out or with {self.out_dir} removed" if self.history else ""
        return f"{advice}{elsewhere}; {self._last_good()}"

    def _last_good(self) -> str:
        if not self.history:
            return "no checkpoint has been written yet"
        return f"the last good checkpoint is {self.out_dir / LAST} (epoch {self.history[-1].epoch})"

    @contextmanager
    def interruptions_explained(self, aloud: bool) -> Iterator[None]:
        """Ctrl-C loses at most the running epoch; say so and let it pass."""
        try:
            yield
        except KeyboardInterrupt:
            if aloud:
                where = f"--resume goes on after epoch {len(self.history)}" if self.history else "nothing to resume yet"
                TrainingDisplay(True, 0, 0, 0).say(f"stopped; {self._last_good()}: {where}")
            raise


@contextmanager
def _reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Layers that draw (dropout) draw from ``seed``; the caller's generators and cuDNN's settings come back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
