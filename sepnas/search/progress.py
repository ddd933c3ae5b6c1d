"""The progress display of a search: live lines in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from sepnas.console import DataConsole

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """The progress of a search. ``seconds_left`` is None until it can be estimated.

    ``rejected`` proposals broke a bound and ``duplicates`` had the plan of an earlier one; neither count as candidates.
    A resumed search counts them again while it repeats its earlier proposals.
    """

    done: int
    total: int
    front_size: int
    hypervolume: float
    seconds_left: float | None
    best_accuracy: float = 0.0
    knee_payload_bytes: float = 0.0
    rejected: int = 0
    duplicates: int = 0

    def __str__(self) -> str:
        return f"candidates {self.done}/{self.total}, {self.short()}; {self.details()}"

    def short(self) -> str:
        left = "" if self.seconds_left is None else f", {_duration(self.seconds_left)} left"
        return f"front {self.front_size}, hypervolume {self.hypervolume:.4f}{left}"

    def details(self) -> str:
        found = f"best {self.best_accuracy:.2%}, knee {self.knee_payload_bytes:,.0f} payload bytes"
        if not self.front_size:
            found = "no candidate within the bounds yet"
        if not self.rejected and not self.duplicates:
            return found
        return f"{found}; left out: {self.rejected} rejected, {self.duplicates} duplicates"


@dataclass(frozen=True, slots=True)
class SupernetProgress:
    """The supernet's progress: completed epochs, and the fraction (0 to 1) of the current one; None if unknown."""

    epochs_done: int
    part: float
    epochs: int
    val_accuracy: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        return f"supernet: epoch {self.epochs_done}/{self.epochs}{', ' if self.short() else ''}{self.short()}"

    def short(self) -> str:
        words = [] if self.val_accuracy is None else [f"validation {self.val_accuracy:.2%}"]
        words += [] if self.seconds_left is None else [f"{_duration(self.seconds_left)} left"]
        return ", ".join(words)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


ProgressOption: TypeAlias = bool | Callable[[SearchProgress], None]


class _Lines(Progress):
    """A bar for each phase, with one line below."""

    details = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.details:
            yield Text(self.details, style="dim")


class ProgressDisplay:
    """Shows the supernet's training and each :class:`SearchProgress`; silent for ``False``.

    A callback receives only :class:`SearchProgress`.
    """

    def __init__(self, option: ProgressOption, console: Console | None = None) -> None:
        self.option = option
        self.console = console or DataConsole(file=sys.stderr)
        self._shown_at = 0.0
        self._unsaid = ""
        columns = (TextColumn("{task.fields[phase]}", markup=False), BarColumn(14), MofNCompleteColumn())
        self._bar = _Lines(*columns, TextColumn("{task.description}", markup=False), console=self.console)
        self._rows: dict[str, TaskID] = {}
        self._supernet_told = False

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()
        if self._unsaid:
            self.say(self._unsaid)

    def show(self, progress: SearchProgress) -> None:
        if callable(self.option):
            self.option(progress)
        elif self.option and self.console.is_terminal:
            self._bar.details = progress.details()
            self._show_row("search", progress.done, progress.total, progress.short())
        elif self.option:
            self._unsaid = str(progress)
            if self._is_due(progress):
                self.say(self._unsaid)
                self._unsaid = ""

    def show_supernet(self, progress: SupernetProgress) -> None:
        """Show the training of the supernet: a bar in a terminal, elsewhere a line at its start and per epoch."""
        if self.option is not True:
            return
        if self.console.is_terminal:
            self._show_row("supernet", progress.epochs_done + progress.part, progress.epochs, progress.short())
        elif progress.part == 0 or not self._supernet_told:
            self.say(str(progress))
        self._supernet_told = True

    def _show_row(self, phase: str, done: float, total: int, words: str) -> None:
        if phase not in self._rows:
            self._rows[phase] = self._bar.add_task("", phase=phase)
        self._bar.update(self._rows[phase], completed=done, total=total, description=words)
        self._bar.start()

    def say(self, text: str) -> None:
        """Print a line, unless the display is silent or a callback."""
        if self.option is True:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _is_due(self, progress: SearchProgress) -> bool:
        now = time.monotonic()
        if progress.done < progress.total and now - self._shown_at < PLAIN_INTERVAL_S:
            return False
        self._shown_at = now
        return True
