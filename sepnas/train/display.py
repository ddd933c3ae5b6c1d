"""Progress display for reading data and training: a bar on a terminal, else a line per epoch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TypeVar

from rich.progress import Progress, TaskID, TimeRemainingColumn
from rich.progress import track as rich_track

from sepnas.console import DataConsole
from sepnas.terminal import print_line
from sepnas.train.record import EpochRecord

_SHORT = 100

_T = TypeVar("_T")


def track(items: Sequence[_T], what: str, short: int = _SHORT) -> Iterable[_T]:
    """Iterate over ``items``, with a bar if there are ``short`` or more and stderr is a terminal."""
    console = DataConsole(stderr=True)
    if len(items) < short or not console.is_terminal:
        return items
    return rich_track(items, what, console=console, transient=True)


class TrainingDisplay:
    """``progress`` is a rich ``Progress`` to add a bar to, True (a bar or lines on stderr) or False (silence).

    The bar counts ``steps`` of each of the ``epochs``.
    """

    def __init__(self, progress: Progress | bool, epochs: int, steps_done: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        self._own: Progress | None = None
        self._progress: Progress | None = None
        self._lines = False
        if isinstance(progress, Progress):
            self._progress = progress
        elif progress and sys.stderr.isatty():
            columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(elapsed_when_finished=True))
            self._progress = self._own = Progress(*columns, console=DataConsole(stderr=True))
        elif progress:
            self._lines = True
        self._done = steps_done
        self._task = TaskID(0)

    def __enter__(self) -> TrainingDisplay:
        if self._own:
            self._own.start()
        if self._progress:
            self._task = self._progress.add_task("training", total=self._epochs * self._steps, completed=self._done)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._own:
            self._own.stop()

    def validating(self, epoch: int, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` validation images are classified."""
        if self._progress:
            place = f"epoch {epoch}/{self._epochs}"
            self._progress.update(self._task, description=f"{place}, validating {done / total:.0%}")

    def preparing(self, what: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` images are prepared."""
        if self._progress:
            self._progress.update(self._task, description=f"{what}, {done / total:.0%}")
        if self._lines and not done:
            self.say(f"{what}: {total:,} images")

    def step(self) -> None:
        if self._progress:
            self._progress.advance(self._task)

    def epoch(self, record: EpochRecord, left_s: float) -> None:
        """Report a finished epoch; ``left_s`` is the estimated time for the remaining ones."""
        if self._progress:
            place = f"epoch {record.epoch}/{self._epochs}"
            self._progress.update(self._task, description=f"{place}, validation {record.val_accuracy:.1%}")
        if self._lines:
            self.say(
                f"epoch {record.epoch}/{self._epochs}  loss {record.train_loss:.4f}  "
                f"validation {record.val_accuracy:.2%}  learning rate {record.learning_rate:.3g}  "
                f"{record.images_per_s:,.0f} images/s  {_duration(left_s)} left"
            )

    def say(self, text: str) -> None:
        """Print a line, unless the display is silent."""
        if self._progress:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._lines:
            print_line(text, sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min" if minutes < 60 else f"{hours} h {minutes % 60} min"
