"""All results of the repository as one table; a result that nobody can run again is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sepnas.errors import SpecError
from sepnas.report.units import format_count
from sepnas.spec.result import Measure, ResultFile

COLUMNS = ("value", "spread", "n", "goal", "met")
DISPENSABLE = ("n", "spread")
"""What is left out first where there is no room."""
LEAST_NAME = 34
MOST_COLUMNS = 1000

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One result of a folder of ``experiments/``; ``result`` is None as long as it has none."""

    slug: str
    path: Path
    result: ResultFile | None


def collect_results(root: str | Path, verbs: Collection[str]) -> list[Experiment]:
    """Every experiment below ``root/experiments``, by name; one that was run in several ways has a result of each,
    ``result-WAY.json``.

    Args:
        root: the repository.
        verbs: the commands of ``sepnas`` that exist.

    Raises :class:`SpecError`, which names the file, when a result is damaged or its command is gone.
    """
    root = Path(root)
    folders = sorted(path for path in (root / "experiments").glob("*") if path.is_dir())
    kept = [folder for folder in folders if not folder.name.startswith((".", "_"))]
    return [_experiment(root, path, verbs) for folder in kept for path in _results(folder)]


def _results(folder: Path) -> list[Path]:
    found = sorted((*folder.glob("result.json"), *folder.glob("result-*.json")))
    return found or [folder / "result.json"]


def _experiment(root: Path, path: Path, verbs: Collection[str]) -> Experiment:
    way = path.stem.removeprefix("result").removeprefix("-")
    name = f"{path.parent.name}, {way}" if way else path.parent.name
    if not path.exists():
        return Experiment(name, path, None)
    result = ResultFile.load(path)
    try:
        check_command(result.command, root, verbs)
    except SpecError as error:
        raise SpecError(f"{path}: field `command`: {error}") from None
    return Experiment(name, path, result)


def check_command(command: str, root: Path, verbs: Collection[str]) -> None:
    """Refuse a command that the repository does not have (any more).

    A command is ``sepnas VERB ...``, ``make TARGET`` or ``python PATH ...``, or several joined by ``&&``;
    assignments of environment variables may stand in front.
    """
    for part in command.split("&&"):
        try:
            words = shlex.split(part)
        except ValueError as error:
            raise SpecError(f"{command!r} is not a command line: {error}") from None
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        _check_words(words, command, root, verbs)


def _check_words(words: list[str], command: str, root: Path, verbs: Collection[str]) -> None:
    program, *arguments = words or [""]
    if program == "sepnas" and arguments:
        if arguments[0] not in verbs:
            allowed = ", ".join(sorted(verbs))
            raise SpecError(f"sepnas has no command {arguments[0]!r} (any more); it has {allowed}; run it again")
    elif program == "make" and arguments:
        _check_targets(arguments, root / "Makefile")
    elif program == "python" and arguments:
        if not (root / arguments[0]).is_file():
            raise SpecError(f"{arguments[0]!r} is not a file of the repository (any more); run it again")
    else:
        raise SpecError(f"expected `sepnas VERB ...`, `make TARGET` or `python PATH ...`, got {command!r}")


def _check_targets(arguments: list[str], makefile: Path) -> None:
    text = makefile.read_text(encoding="utf-8") if makefile.is_file() else ""
    known = set(_targets(text))
    wanted = [word for word in arguments if not word.startswith("-") and "=" not in word]
    for target in wanted:
        if target not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise SpecError(f"{makefile.name} has no target {target!r} (any more); it has {allowed}; run it again")


def _targets(makefile: str) -> Iterator[str]:
    for line in makefile.splitlines():
        found = re.match(r"([^\s#:=][^#:=]*):(?!=)", line)
        for name in found[1].split() if found else ():
            if not name.startswith("."):
                yield name


def results_table(experiments: Iterable[Experiment], width: int | None = None) -> Table:
    """Every measure of every experiment under its name; a missed goal is marked.

    In ``width`` characters there may be no room for all columns: what a reader misses least is left out, and said.
    """
    experiments = list(experiments)
    if width is None:
        return _table(experiments)
    for number in range(len(DISPENSABLE) + 1):
        left_out = DISPENSABLE[:number]
        room = width - _width_but_names(_table(experiments, left_out))
        if room >= LEAST_NAME:
            break
    return _table(experiments, left_out, room)


def _width_but_names(table: Table) -> int:
    console = Console(width=MOST_COLUMNS)
    return console.measure(table).maximum - console.measure(Group(*table.columns[0].cells)).maximum


def _table(experiments: Sequence[Experiment], left_out: Collection[str] = (), room: int = MOST_COLUMNS) -> Table:
    """The table without some columns; names longer than ``room`` characters go on in another line."""
    caption = _caption(experiments, left_out)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("measure", overflow="fold")
    for heading in (heading for heading in COLUMNS if heading not in left_out):
        table.add_column(heading, justify="left" if heading == "met" else "right", no_wrap=True)
    for experiment in experiments:
        measures = experiment.result.measures if experiment.result else ()
        if measures:
            table.add_row(Text(experiment.slug, "bold"))
        for number, measure in enumerate(measures):
            cells = _cells(measure)
            shown = [cells[heading] for heading in COLUMNS if heading not in left_out]
            table.add_row(Text(_folded(measure.name, room)), *shown, end_section=number == len(measures) - 1)
    return table


def _folded(name: str, room: int) -> str:
    """An indented name, broken after underscores where it is longer than ``room``."""
    lines = [" "]
    for word in re.findall(r"[^_]*_|[^_]+", name):
        if len(lines[-1]) + len(word) >= room:
            lines.append("   ")
        lines[-1] += word if lines[-1].strip() else f" {word}"
    return "\n".join(lines)


def _caption(experiments: Sequence[Experiment], left_out: Collection[str]) -> str:
    measures = [m for experiment in experiments if experiment.result for m in experiment.result.measures]
    missed = sum(measure.met is False for measure in measures)
    without = [experiment.slug for experiment in experiments if experiment.result is None]
    lines = [f"{format_count(len(measures), 'measure')}, {format_count(missed, 'missed goal')}"]
    if without:
        lines.append(f"without a result: {', '.join(without)}")
    if left_out:
        lines.append(f"no room for: {', '.join(left_out)}; a wider terminal or --json shows all")
    return "\n".join(lines)


def _cells(measure: Measure) -> dict[str, Text]:
    """What stands in each column but the name's."""
    known = measure.low is not None or measure.high is not None
    return {
        "value": Text(f"{_digits(measure.value)} {measure.unit}".rstrip()),
        "spread": Text(f"{_digits(measure.low, 3)} to {_digits(measure.high, 3)}" if known else ""),
        "n": Text(str(measure.n)),
        "goal": Text(measure.goal or ""),
        "met": {True: Text("yes", "green"), False: Text("MISSED", "bold red"), None: Text("")}[measure.met],
    }


def _digits(value: float | None, significant: int = 5) -> str:
    if value is None:
        return "?"
    return f"{int(value):,}" if value.is_integer() and abs(value) < 2**53 else f"{value:.{significant}g}"


def results_data(experiments: Iterable[Experiment]) -> list[dict[str, Any]]:
    """Everything that the result files hold, by experiment; ``result`` is None where there is none yet."""
    return [{"experiment": x.slug, "result": x.result.to_data() if x.result else None} for x in experiments]
