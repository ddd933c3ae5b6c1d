"""What a search says while it runs: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a search is. ``seconds_left`` is None until there is something to go by."""

    done: int
    total: int
    front_size: int
    hypervolume: float
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"candidates {self.done}/{self.total}, front {self.front_size}, hypervolume {self.hypervolume:.4f}{left}"


ProgressOption: TypeAlias = bool | Callable[[SearchProgress], None]


class ProgressDisplay:
    """Shows each :class:`SearchProgress`; silent for ``False``, passed on to a callback."""

    def __init__(self, option: ProgressOption, console: Console | None = None) -> None:
        self.option = option
        self.console = console or Console(file=sys.stderr)
        self._shown_at = 0.0
        columns = (TextColumn("search"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self.console)
        self._task = self._bar.add_task("")

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: SearchProgress) -> None:
        if callable(self.option):
            self.option(progress)
        elif self.option and self.console.is_terminal:
            self._bar.start()  # not before: the training of the supernet has a live display of its own
            description = str(progress).partition(", ")[2]
            self._bar.update(self._task, completed=progress.done, total=progress.total, description=description)
        elif self.option and self._is_due(progress):
            self.say(str(progress))

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
