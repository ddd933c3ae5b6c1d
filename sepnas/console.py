"""The console for all output of sepnas; strings are data, never markup."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from sepnas.terminal import one_line, print_line, printable


class DataConsole(Console):
    """A console that prints strings literally: no markup, emoji codes or highlighting, and control characters are
    escaped. Styled output is passed as a :class:`Text`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        return _escaped(super().render(renderable, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Escape each segment: the only place that also sees the strings inside a :class:`Text`."""
    for text, style, control in segments:
        yield Segment(text if control else printable(text), style, control)


console = DataConsole()


errors = DataConsole(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """Print one line on stdout without wrapping; control characters and line breaks in it are escaped."""
    print_line(text)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    _tell("warning:", "bold yellow", text)


def fail(text: str) -> None:
    """Print an error on stderr."""
    _tell("error:", "bold red", text)


def _tell(head: str, style: str, text: str) -> None:
    """Indent continuation lines, so that a line break in a file name cannot forge a message."""
    first, *others = printable(text).splitlines() or [""]
    errors.print(Text.assemble((head, style), " ", first, *(f"\n  {line}" for line in others)))


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


SAY_EVERY_S = 10.0


@contextmanager
def step_bar(doing: str) -> Iterator[Callable[[int, int, str], None]]:
    """Progress in steps: a bar with the remaining time on a terminal, otherwise a line every ``SAY_EVERY_S``."""
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task, next_line = progress.add_task(doing), time.monotonic() + SAY_EVERY_S

        def show(done: int, total: int, what: str) -> None:
            nonlocal next_line
            progress.update(task, completed=done, total=total, description=f"{doing}: {what}")
            if not errors.is_terminal and time.monotonic() >= next_line:
                errors.print(one_line(f"{doing}: {done}/{total}, {what}"))
                next_line = time.monotonic() + SAY_EVERY_S

        yield show
