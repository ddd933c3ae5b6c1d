"""The training loop for any network from images to logits: seeded, and resumable bit for bit.

All randomness (image order, augmentation, sampling within a step) derives from the seed, the epoch and the step number.
A checkpoint after any step therefore holds the whole state: a run that was killed or stopped ends with the same weights
as an uninterrupted one with the same machine, threads and versions.

The test split is never used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from rich.progress import Progress
from torch import Tensor, nn

from sepnas.errors import TrainingError
from sepnas.nets.trainable import TrainableGraph
from sepnas.options import option
from sepnas.partition.graph import WEIGHTS_NAME
from sepnas.separable.architecture import Architecture
from sepnas.spec.writing import write_text
from sepnas.train.average import WeightAverage
from sepnas.train.batches import Batch, Batches, alternately_mirrored
from sepnas.train.checkpoint import BEST, text_sha256
from sepnas.train.checks import check_shares, check_trainable
from sepnas.train.curves import Curves
from sepnas.train.display import TrainingDisplay
from sepnas.train.evaluate import Tick, accuracy
from sepnas.train.images import ImageData
from sepnas.train.optimize import Optimization, Rates
from sepnas.train.processes import Processes, processes_of
from sepnas.train.recipe import Recipe
from sepnas.train.record import EpochRecord, TrainingResult
from sepnas.train.run_files import Reached, RunFiles, RunState, describe_graph_run, describe_run, identity_of
from sepnas.train.seeds import derived_seed
from sepnas.train.sides import scaled, sides_of
from sepnas.train.steps import Step, step_of
from sepnas.train.teaching import AnyTeacher, Teaching
from sepnas.train.whiten import freeze_first_convolution

Validate = Callable[[nn.Module], float]
"""Returns the validation accuracy of a network, 0..1."""

LOSS_CHECK_STEPS = 50
"""Number of steps between checks of the losses on an accelerator; each check synchronises with it."""
CHECKPOINT_S = 180.0
"""Seconds between checkpoints within a long epoch."""


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
    teachers: Sequence[AnyTeacher] = (),
    start: str = "",
    compiled: bool = False,
    rates: Rates | None = None,
    beside: Mapping[str, str] = MappingProxyType({}),
    on_begin: Callable[[], object] | None = None,
) -> TrainingResult:
    """Train ``network`` in place and write a checkpoint to ``out_dir`` after each epoch and within long epochs.

    ``network`` ends with the weights of the last epoch (or their average, if the recipe has one), on ``device``. The
    weights of the epoch with the best validation accuracy are in ``best.safetensors``
    (:func:`sepnas.train.checkpoint.load_network`), those of a graph in ``weights.safetensors``: the folder is then that
    of an imported network (:func:`sepnas.nets.trainable.load_trainable`).

    - ``resume`` continues from ``last.safetensors``, or starts a new run if there is none.
    - ``stop_after_s`` ends the run unfinished after the epoch in which the time runs out, or earlier if the next epoch
      would not fit; within a long epoch, at the last checkpoint that fits.
    - ``step`` replaces the loss of a batch, including the recipe's dropout of devices and messages.
    - ``validate`` replaces the accuracy on the validation split.
    - ``teachers`` are trained networks for the recipe's ``distillation``; the answers of some are kept in the folder.
    - ``start`` is a digest of the initial weights if they are not from the seed; a resumed run must have the same.
    - ``compiled`` runs steps, except a custom ``step``, through ``torch.compile``; it may differ on resume, like the
      device.
    - ``rates`` are factors of the learning rate by the names of parameters.
    - ``beside`` are texts of further files of the folder, by name; a resumed run must have the same.
    - ``on_begin`` is called once the folder is the run's, before any step.

    Under ``torchrun``, the processes share each batch (:mod:`sepnas.train.processes`), and only the first one writes,
    only after complete epochs.

    Raises :class:`TrainingError` (data that do not fit the architecture or the recipe, a seed beyond 32 bits, a
    non-finite loss, insufficient device memory, an existing run without ``resume``), :class:`CheckpointError` and
    :class:`StorageError`; once the run has begun, the message names the last good checkpoint.
    """
    processes, place = processes_of(pick_device(device))
    progress = progress if processes.first else False
    run: _Run | None = None
    with ExitStack() as stack:
        stack.enter_context(_memory_explained(place, recipe, lambda: run.where_it_stands() if run else ""))
        run = _Run(network, data, recipe, Path(out_dir), seed, place, step, teachers, start, processes, compiled, rates)
        run.validate = validate or run.validate
        stack.enter_context(run.files.alone())
        run.begin(resume, beside)
        if on_begin and processes.first:
            on_begin()
        history = run.history
        if processes.count > 1:
            processes.check_equal("epochs done", len(history))
            processes.check_equal("weights of sum", sum(float(x.detach().double().sum()) for x in network.parameters()))
        stack.enter_context(run.interruptions_explained(progress is not False))
        begun = len(history) * run.steps + len(run.files.saved.losses)
        display = stack.enter_context(TrainingDisplay(progress, recipe.epochs, begun, run.steps))
        drawn = run.files.folder / "tensorboard" if processes.first else None
        if remark := recipe.remark():
            display.say(remark)
        run.prepare_answers(display)
        curves = stack.enter_context(Curves(drawn, first_epoch=len(history) + 1))
        started = time.monotonic()
        run.stop_at = None if stop_after_s is None else started + stop_after_s
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            record = run.epoch(epoch, display)
            if record is None:
                break
            run.save(record, curves)
            next_s = run.next_epoch_s(record)
            display.epoch(record, next_s * (recipe.epochs - epoch))
            passed_s = processes.broadcast(time.monotonic() - started + next_s)
            if stop_after_s is not None and passed_s > stop_after_s:
                break
    if run.state.result is not network:
        network.load_state_dict(run.state.result.state_dict())
    return TrainingResult(run.files.folder, len(run.history) == recipe.epochs, run.history, str(run.files.saved))


def pick_device(name: str) -> torch.device:
    """The named device; ``auto`` is CUDA if available, else the CPU. Raises :class:`TrainingError` if unavailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("training runs on cpu and cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try 'auto' or 'cpu'"
        ) from None
    return device


class _Run:
    """The state of a training run between two checkpoints."""

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        recipe: Recipe,
        out_dir: Path,
        seed: int,
        device: torch.device,
        step: Step | None,
        teachers: Sequence[AnyTeacher],
        start: str,
        processes: Processes,
        compiled: bool,
        rates: Rates | None,
    ) -> None:
        found = getattr(network, "architecture", None)
        self.architecture = found if isinstance(found, Architecture) else None
        self.graph = network.graph if isinstance(network, TrainableGraph) else None
        check_trainable(self.architecture, data, recipe, seed)
        self._infinite = {name for name, x in network.state_dict().items() if not bool(x.isfinite().all())}
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        if recipe.whiten_stem:
            freeze_first_convolution(network, None if start else data)
        self.network = network.to(device=device).to(memory_format=layout)  # type: ignore[call-overload]
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        self._processes = processes
        self._teaching = Teaching(self.network, data, recipe, device, teachers)
        self._step = step
        self._own_step = step_of(recipe, self._teaching.live, compiled, self._teaching.features)
        self.validate: Validate = lambda network: accuracy(network, data.val, data, tick=self._tick)
        self._tick: Tick = lambda done, total: None
        self._batches = Batches(data, recipe, device, processes)
        self.steps = self._batches.steps
        self._sides = sides_of(recipe, data.image_size, self.architecture)
        check_shares(len(data.train) // self.steps, recipe, processes.count)
        average = WeightAverage(self.network, recipe.ema_decay) if recipe.ema_decay else None
        self.state = RunState(self.network, Optimization(network, recipe, self.steps, processes, rates), average)
        identity = identity_of(
            self.architecture, recipe, seed, data, teachers=self._teaching.identity(),
            start=start[:16], processes=processes.count if processes.count > 1 else 0,
            graph=text_sha256(self.graph.dumps())[:16] if self.graph else "",
        )  # fmt: skip
        self.files = RunFiles(out_dir, identity, self.state, processes.first, WEIGHTS_NAME if self.graph else BEST)
        self.stop_at: float | None = None

    def begin(self, resume: bool, beside: Mapping[str, str]) -> None:
        """Restore the last checkpoint, if any, and write the description of the run and the files beside it."""
        self.files.begin(resume, beside)
        if self._processes.first:
            with self.files.explained():
                if self.architecture:
                    describe_run(self.files.folder, self.architecture, self.data)
                if self.graph:
                    describe_graph_run(self.files.folder, self.graph, self.data)
                for name, text in beside.items():
                    write_text(self.files.folder / name, text)

    def prepare_answers(self, display: TrainingDisplay) -> None:
        """Compute or read the kept answers of teachers; every process has all of them, the first one writes."""
        if self._teaching.kept:
            with self.files.explained():
                self._teaching.kept.prepare(self.files.folder, self.device, display.preparing, self._processes.first)

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        return self.files.saved.history

    def next_epoch_s(self, record: EpochRecord) -> float:
        """The expected seconds of the epoch after this one, in proportion to the pixels of an image."""
        return record.duration_s * (self._sides.of(record.epoch + 1) / self._sides.of(record.epoch)) ** 2

    def epoch(self, epoch: int, display: TrainingDisplay) -> EpochRecord | None:
        """Train the rest of an epoch and validate; None if the time ran out within the epoch."""
        trained = self._train(epoch, display)
        if trained is None:
            return None
        rate, losses, trained_s = trained
        validated = time.perf_counter()
        self._tick = partial(display.validating, epoch)
        self._processes.average_statistics(self.network)
        if self.state.average:
            self._processes.average_statistics(self.state.average.network)
        right = self._processes.broadcast(self.validate(self.state.result) if self._processes.first else 0.0)
        return EpochRecord(
            epoch=epoch,
            train_loss=float(losses.double().mean()),
            val_accuracy=right,
            learning_rate=rate,
            images_per_s=len(self.data.train) / trained_s,
            duration_s=trained_s + time.perf_counter() - validated,
        )

    def _train(self, epoch: int, display: TrainingDisplay) -> tuple[float, Tensor, float] | None:
        """Train the rest of an epoch; returns the last learning rate, the losses of all steps and the seconds."""
        seed, processes, saved = derived_seed(self.seed, epoch), self._processes, self.files.saved
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(seed))
        mirrored = alternately_mirrored(len(order), self.seed, epoch) if self._teaching.alternates else None
        first = checked = len(saved.losses)
        losses, rate = torch.zeros(self.steps, device=self.device), self.state.optimization.learning_rate
        losses[:first] = saved.losses
        started = time.perf_counter() - saved.trained_s
        self.network.train()
        with _reproducible(self.device):
            for number, batch in enumerate(self._batches.of(order, processes.seed(seed), first, mirrored), first):
                rate = self.state.optimization.learning_rate
                loss = self._loss(batch, processes.seed(derived_seed(seed, number)), self._sides.of(epoch))
                losses[number] = loss.detach()
                last, due = number + 1 == self.steps, processes.count == 1 and self.files.age_s > CHECKPOINT_S
                if self.device.type == "cpu" or number % LOSS_CHECK_STEPS == 0 or last or due:
                    processes.average([losses[checked : number + 1]])
                    self._check_losses(losses[: number + 1], epoch)
                    checked = number + 1
                self.state.optimization.step(loss)
                if self.state.average:
                    self.state.average.follow(self.network, (epoch - 1) * self.steps + number + 1)
                display.step()
                if due and not last:
                    paused = time.perf_counter()
                    self._save_steps(losses[: number + 1], paused - started)
                    started += time.perf_counter() - paused
                    if self.stop_at is not None and time.monotonic() + CHECKPOINT_S > self.stop_at:
                        return None
        return rate, losses, time.perf_counter() - started

    def _loss(self, batch: Batch, seed: int, side: int) -> Tensor:
        """The loss of this process's part of a batch, weighted by its share; all draws derive from ``seed``.

        The network sees images of ``side`` pixels, teachers see whole ones.
        """
        _seed_layers(derived_seed(seed, "layers"), self.device)
        images_BCHW = scaled(batch.images, side)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            loss = self._answered(batch, images_BCHW, torch.Generator().manual_seed(seed))
        return self._processes.mean_loss(loss, len(batch.labels), batch.size)

    def _answered(self, batch: Batch, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        if self._step:
            return self._step(self.network, images_BCHW, batch.labels, generator)
        taught = self._teaching.kept.of(batch) if self._teaching.kept else None
        return self._own_step(self.network, images_BCHW, batch.labels, generator, taught, batch.images)

    def _check_losses(self, losses: Tensor, epoch: int) -> None:
        finite = losses.isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the loss is {float(losses[step])} in epoch {epoch}, step {step + 1} of {self.steps}; "
                f"{self._lower_rate()}"
            )

    def save(self, record: EpochRecord, curves: Curves) -> None:
        reached = Reached((*self.history, record))
        self._check_weights(reached)
        self.files.save_epoch(reached)
        with self.files.explained():
            curves.add(record)

    def _save_steps(self, losses: Tensor, trained_s: float) -> None:
        reached = Reached(self.history, losses.clone(), trained_s)
        self._check_weights(reached)
        self.files.save_steps(reached)

    def _check_weights(self, reached: Reached) -> None:
        for name, x in self.network.state_dict().items():
            if name not in self._infinite and not bool(x.isfinite().all()):
                raise TrainingError(f"{name!r} is no longer finite after {reached}; {self._lower_rate()}")

    def _lower_rate(self) -> str:
        """Advice for diverged weights or losses."""
        advice = f"try a lower `learning_rate` than the {self.recipe.learning_rate:g} of the recipe"
        goes_on = bool((self.architecture or self.graph) and self.history)
        best = f" ({self._best_epoch()} continues from the best epoch)" if goes_on else ""
        return f"{advice}{self._elsewhere()}{best}; {self.files.last_good()}"

    def _best_epoch(self) -> str:
        if self.graph:
            return f"training {self.files.folder}"
        return option(f"--start {self.files.folder}", f"start={str(self.files.folder)!r}")

    def where_it_stands(self) -> str:
        """Advice for continuing with a changed recipe."""
        return f"{self._elsewhere()}; {self.files.last_good()}"

    def _elsewhere(self) -> str:
        """A hint to use another folder, because a changed recipe is another run."""
        return ", in another folder" if self.files.saved else ""

    @contextmanager
    def interruptions_explained(self, aloud: bool) -> Iterator[None]:
        """On Ctrl-C, name the last checkpoint, after which all progress is lost, and re-raise."""
        try:
            yield
        except KeyboardInterrupt:
            if aloud:
                saved = self.files.saved
                where = f"resume to continue after {saved}" if saved else "nothing to resume yet"
                TrainingDisplay(True, 0, 0, 0).say(f"stopped; {self.files.last_good()}: {where}")
            raise


@contextmanager
def _memory_explained(device: torch.device, recipe: Recipe, stands: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = recipe.batch_size
        advice = f"try `batch_size` {size // 2} in the recipe" if size > 1 else "use another device"
        raise TrainingError(
            f"{device} has too little memory for batches of {size} images; {advice}{stands()}"
        ) from error


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Make cuDNN deterministic; restores the caller's settings and generators afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield


def _seed_layers(seed: int, device: torch.device) -> None:
    """Seed the global generators, from which layers such as dropout draw."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
