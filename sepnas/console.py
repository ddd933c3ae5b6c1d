"""The console of everything that sepnas shows: strings are data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sepnas.terminal import printable


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
