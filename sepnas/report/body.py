"""The building blocks of the page: sections with pictures and tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from sepnas.report.figures.style import Drawing
from sepnas.report.figures.svg import inline_svg

if TYPE_CHECKING:
    from sepnas.report.map_view import ShownMap

LONG = 12
"""Tables with more rows are folded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An inline SVG and its caption; a ``wide`` one takes a whole row and scrolls on a narrow screen."""

    svg: Markup
    caption: str
    wide: bool = False


class SortableCell(str):
    """A cell's text, with the number to sort it by."""

    value: float

    def __new__(cls, text: str, value: float) -> SortableCell:
        cell = super().__new__(cls, text)
        cell.value = value
        return cell


@dataclass(frozen=True, slots=True)
class Table:
    """Plain text cells, text columns before numbers; a ``folded`` table opens on demand, ``marked`` rows stand out.

    A click on a heading sorts by its column: by the values of its :class:`SortableCell`, else by its texts.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False
    marked: frozenset[int] = frozenset()
    num_text_columns: int = 1


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    slug: str
    title: str
    lead: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    maps: tuple[ShownMap, ...] = ()


def picture(draw: Callable[[], Drawing], caption: str, wide: bool = False) -> Picture:
    """Draw a picture for the page."""
    return Picture(inline_svg(draw), caption, wide)
