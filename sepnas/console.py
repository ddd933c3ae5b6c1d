"""The console of everything that sepnas shows: strings are data."""

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
    """A console that shows a string as it is: no markup, no emoji codes, no highlighting, and nothing in it steers the
    terminal. What is to have a style is a :class:`Text`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        return _escaped(super().render(renderable, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    """A string that came in a :class:`Text` has only here its last chance."""
    for text, style, control in segments:
        yield Segment(text if control else printable(text), style, control)


console = DataConsole()


errors = DataConsole(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """One line on stdout, as long as it is; whatever is in it neither steers the terminal nor makes another line."""
    print_line(text)


def warn(text: str) -> None:
    """A warning on stderr."""
    _tell("warning:", "bold yellow", text)


def fail(text: str) -> None:
    """An error on stderr."""
    _tell("error:", "bold red", text)


def _tell(head: str, style: str, text: str) -> None:
    """Further lines are indented: a line break in a file's name makes none that looks like one of ours."""
    first, *others = printable(text).splitlines() or [""]
    errors.print(Text.assemble((head, style), " ", first, *(f"\n  {line}" for line in others)))


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


SAY_EVERY_S = 10.0


@contextmanager
def export_bar() -> Iterator[Callable[[int, int, str], None]]:
    """How far an export is: on a terminal with what it still takes, elsewhere in a line now and then."""
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task, due = progress.add_task("export"), time.monotonic() + SAY_EVERY_S

        def show(done: int, total: int, what: str) -> None:
            nonlocal due
            progress.update(task, completed=done, total=total, description=f"export: {what}")
            if not errors.is_terminal and time.monotonic() >= due:
                errors.print(one_line(f"export: {done}/{total}, {what}"))
                due = time.monotonic() + SAY_EVERY_S

        yield show
