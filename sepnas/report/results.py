"""All results of the repository as one table; a result that nobody can run again is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sepnas.errors import SpecError
from sepnas.report.units import format_count
from sepnas.spec.result import Measure, ResultFile

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One folder of ``experiments/``; ``result`` is None as long as it has none."""

    slug: str
    path: Path
    result: ResultFile | None


def collect_results(root: str | Path, verbs: Collection[str]) -> list[Experiment]:
    """Every experiment below ``root/experiments``, by name.

    Args:
        root: the repository.
        verbs: the commands of ``sepnas`` that exist.

    Raises :class:`SpecError`, which names the file, when a result is damaged or its command is gone.
    """
    root = Path(root)
    folders = sorted(path for path in (root / "experiments").glob("*") if path.is_dir())
    return [_experiment(root, folder, verbs) for folder in folders if not folder.name.startswith((".", "_"))]


def _experiment(root: Path, folder: Path, verbs: Collection[str]) -> Experiment:
    path = folder / "result.json"
    if not path.exists():
        return Experiment(folder.name, path, None)
    result = ResultFile.load(path)
    try:
        check_command(result.command, root, verbs)
    except SpecError as error:
        raise SpecError(f"{path}: field `command`: {error}") from None
    return Experiment(folder.name, path, result)


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


def results_table(experiments: Iterable[Experiment]) -> Table:
    """Every measure of every experiment; a missed goal is marked."""
    experiments = list(experiments)
    table = Table(title="Results", caption=_caption(experiments), caption_justify="left")
    for heading in ("experiment", "measure"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "spread", "n", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("met")
    for experiment in experiments:
        measures = experiment.result.measures if experiment.result else ()
        for number, measure in enumerate(measures):
            slug = experiment.slug if number == 0 else ""
            table.add_row(Text(slug), *_cells(measure), end_section=number == len(measures) - 1)
    return table


def _caption(experiments: list[Experiment]) -> str | None:
    measures = [m for experiment in experiments if experiment.result for m in experiment.result.measures]
    missed = sum(measure.met is False for measure in measures)
    without = [experiment.slug for experiment in experiments if experiment.result is None]
    lines = [f"{format_count(len(measures), 'measure')}, {format_count(missed, 'missed goal')}"]
    if without:
        lines.append(f"without a result: {', '.join(without)}")
    return "\n".join(lines)


def _cells(measure: Measure) -> Iterator[Text]:
    yield Text(measure.name)
    yield Text(f"{_digits(measure.value)} {measure.unit}".rstrip())
    known = measure.low is not None or measure.high is not None
    yield Text(f"{_digits(measure.low)} to {_digits(measure.high)}" if known else "")
    yield Text(str(measure.n))
    yield Text(measure.goal or "")
    yield {True: Text("yes", "green"), False: Text("MISSED", "bold red"), None: Text("")}[measure.met]


def _digits(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{int(value):,}" if value.is_integer() and abs(value) < 2**53 else f"{value:.5g}"
