"""What a search says while it runs: live lines in a terminal, plain ones elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a search is. ``seconds_left`` is None until there is something to go by.

    ``rejected`` broke a bound and ``duplicates`` had the plan of an earlier one: neither counts as a candidate.
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
        return (
            f"best {self.best_accuracy:.2%}, knee {self.knee_payload_bytes:,.0f} bytes; "
            f"left out: {self.rejected} rejected, {self.duplicates} duplicates"
        )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


ProgressOption: TypeAlias = bool | Callable[[SearchProgress], None]


class _Lines(Progress):
    """A bar, and a line under it."""

    details = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.details, style="dim")


class ProgressDisplay:
    """Shows each :class:`SearchProgress`; silent for ``False``, passed on to a callback."""

    def __init__(self, option: ProgressOption, console: Console | None = None) -> None:
        self.option = option
        self.console = console or Console(file=sys.stderr)
        self._shown_at = 0.0
        self._unsaid = ""
        columns = (TextColumn("search"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = _Lines(*columns, console=self.console)
        self._task = self._bar.add_task("")

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
            self._bar.start()  # not before: the training of the supernet has a live display of its own
            self._bar.details = progress.details()
            self._bar.update(self._task, completed=progress.done, total=progress.total, description=progress.short())
        elif self.option:
            self._unsaid = str(progress)
            if self._is_due(progress):
                self.say(self._unsaid)
                self._unsaid = ""

    def say(self, text: str) -> None:
        """A line of its own, unless the display is silent or a callback's."""
        if self.option is True:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _is_due(self, progress: SearchProgress) -> bool:
        now = time.monotonic()
        if progress.done < progress.total and now - self._shown_at < PLAIN_INTERVAL_S:
            return False
        self._shown_at = now
        return True
