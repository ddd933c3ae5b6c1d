"""Tables of literal cells; columns that do not fit into the terminal are omitted and named, never cut.

A pipe or a file gets all columns. A terminal too narrow for any table gets one cell per line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from sepnas.console import DataConsole, console
from sepnas.terminal import one_line

MIN_TEXT = 12
"""Minimum width of a text column, in characters; other columns are omitted to keep it."""
_WIDE = 100_000
"""Width assumed for a pipe, in characters: more than any table needs."""

Cell: TypeAlias = str | Text
Shorten: TypeAlias = Callable[[Sequence[str], int], list[str]]


@dataclass(frozen=True)
class DataColumn:
    """A column of numbers, which are never cut, or of text (``number=False``), which wraps.

    ``drop``: the column with the highest value is omitted first when the table does not fit; 0 is never omitted.
    ``shorten`` abbreviates the texts of a column instead of wrapping them. ``least``: minimum width of text, in
    characters.
    """

    heading: str
    number: bool = True
    drop: int = 0
    shorten: Shorten | None = None
    least: int = MIN_TEXT


def text_column(heading: str, drop: int = 0, shorten: Shorten | None = None) -> DataColumn:
    return DataColumn(heading, False, drop, shorten)


@dataclass
class DataTable:
    """Column headings (with a ``rule`` below them) and rows; string cells are made one line, :class:`Text` is kept."""

    columns: Sequence[DataColumn]
    title: str = ""
    show_header: bool = True
    rule: bool = True
    rows: list[tuple[list[Text], str | None]] = field(default_factory=list)

    def add(self, *cells: Cell, style: str | None = None) -> None:
        assert len(cells) == len(self.columns)
        self.rows.append(([Text(one_line(cell)) if isinstance(cell, str) else cell for cell in cells], style))

    def fitted(self, width: int | None) -> Group:
        """The columns that fit into ``width`` characters, and the names of those that do not; all if it is None."""
        shown = list(range(len(self.columns)))
        while width is not None and self._width(shown, self._least) > width:
            droppable = [place for place in shown if self.columns[place].drop]
            if not droppable:
                break
            shown.remove(max(droppable, key=lambda place: self.columns[place].drop))
        if width is not None and self._width(shown, self._least) > width:
            return Group(*self._stacked())
        left_out = [column.heading for place, column in enumerate(self.columns) if place not in shown]
        notes = [_note(left_out)] if left_out else []
        return Group(self._rich(shown, width), *notes)

    def _stacked(self) -> Iterator[Text]:
        """One line per cell, below the first cell of its row, for terminals too narrow for any table."""
        if self.title:
            yield Text(one_line(self.title))
        for (first, *cells), style in self.rows:
            yield Text.assemble(first, style=style or "")
            for column, cell in zip(self.columns[1:], cells, strict=True):
                if cell:
                    yield Text.assemble(f"  {_words(column.heading)}: " if self.show_header else "  ", cell)

    def _rich(self, shown: Sequence[int], width: int | None) -> RichTable:
        widths = self._widths(shown, width)
        columns = [
            Column(
                self.columns[place].heading if self.show_header else "",
                justify="right" if self.columns[place].number else "left",
                width=widths[place],
                overflow="fold",
            )
            for place in shown
        ]
        table = RichTable(
            *columns, title=self.title and Text(one_line(self.title)), title_justify="left",
            show_header=self.show_header, show_edge=False,
            box=box.SIMPLE_HEAD if self.rule else None, padding=(0, 1 if self.rule else 2, 0, 0),
        )  # fmt: skip
        cells = [self._cells(place, widths[place]) for place in shown]
        for number, (_, style) in enumerate(self.rows):
            table.add_row(*(column[number] for column in cells), style=style)
        return table

    def _cells(self, place: int, width: int) -> list[Text]:
        """A column's cells, abbreviated if the column has ``shorten`` and they do not fit."""
        cells, shorten = [cells[place] for cells, _ in self.rows], self.columns[place].shorten
        if shorten is None or all(cell.cell_len <= width for cell in cells):
            return cells
        short = shorten([cell.plain for cell in cells], width)
        return [Text(text, cell.style) for text, cell in zip(short, cells, strict=True)]

    def _widths(self, shown: Sequence[int], width: int | None) -> dict[int, int]:
        """The width of each column; the widest text columns shrink first."""
        widths = {place: self._natural(place) for place in shown}
        while width is not None and self._width(shown, widths.__getitem__) > width:
            flexible = [place for place in shown if widths[place] > self._least(place)]
            if not flexible:
                break
            widths[max(flexible, key=widths.__getitem__)] -= 1
        return widths

    def _width(self, shown: Sequence[int], of: Callable[[int], int]) -> int:
        """A table's width: two blanks between columns, and after the last one blank with a rule, two without."""
        return sum(map(of, shown)) + 2 * len(shown) - self.rule

    def _least(self, place: int) -> int:
        natural, column = self._natural(place), self.columns[place]
        return natural if column.number else max(min(natural, column.least), _longest(column.heading.split()))

    def _natural(self, place: int) -> int:
        heading = self.columns[place].heading.splitlines() if self.show_header else []
        return _longest([*heading, *(line for cells, _ in self.rows for line in cells[place].plain.splitlines())])


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0) or 1


def _note(left_out: Sequence[str]) -> Text:
    names = ", ".join(map(_words, left_out))
    return Text(f"no room for: {names}; a wider terminal or a pipe shows all", "dim")


def _words(heading: str) -> str:
    """A heading in one line."""
    return " ".join(heading.replace("-\n", "-").split())


def print_table(table: DataTable) -> None:
    """Print the columns that fit on a terminal, or all columns elsewhere."""
    if console.is_terminal:
        console.print(table.fitted(console.width))
    else:
        DataConsole(width=_WIDE).print(table.fitted(None))


def shorten_paths(paths: Sequence[str], width: int) -> list[str]:
    """Shorten paths at the front: the file name is the most informative part."""
    return _distinct(paths, width, (_without_head, _without_middle))


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Shorten names, such as those of a cluster's devices, and keep them distinct."""
    return _distinct(names, width, (_without_tail, _without_middle, _without_head))


def _distinct(names: Sequence[str], width: int, ways: Sequence[Callable[[str, int], str]]) -> list[str]:
    """Names shortened in the first of ``ways`` that keeps them distinct; unshortened (they wrap) if none does."""
    for way in ways:
        found = [name if cell_len(name) <= width else way(name, width) for name in names]
        if len(set(found)) == len(set(names)):
            return found
    return list(names)


def _without_tail(name: str, width: int) -> str:
    return _head(name, width - 1) + "…"


def _without_head(name: str, width: int) -> str:
    return "…" + _head(name[::-1], width - 1)[::-1]


def _without_middle(name: str, width: int) -> str:
    return _head(name, width // 2 - 1) + "…" + _head(name[::-1], (width - 1) // 2)[::-1]


def _head(name: str, width: int) -> str:
    """The longest prefix of at most ``width`` terminal cells."""
    while cell_len(name) > width:
        name = name[:-1]
    return name
