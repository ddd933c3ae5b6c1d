"""``sepnas results``: every measure of every experiment, as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepnas.cli.options import FOLDER
from sepnas.console import print_json, say
from sepnas.errors import SpecError
from sepnas.results.table import Experiment
from sepnas.spec.result import Measure
from sepnas.tables import DataColumn, DataTable, print_table
from sepnas.units import format_count


def results(
    root: Annotated[Path, typer.Argument(**FOLDER, help="The repository.")] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="Print the whole content of the result files as JSON.")] = False,
) -> None:
    """Print every measure of every experiment; refuse results whose command is no longer in the repository.

    A narrow terminal omits the less important columns; a pipe or a file gets all of them.

    Example: `sepnas results . --json`
    """
    from sepnas.cli.main import VERBS
    from sepnas.results.table import collect_results, results_data

    experiments = collect_results(root, VERBS)
    if not any(experiment.result for experiment in experiments):
        missing = "holds no experiments/*/result.json" if root.is_dir() else "is not a folder"
        raise SpecError(f"{root}: {missing}; name the folder of the repository")
    if json_:
        print_json(results_data(experiments))
    else:
        print_table(results_table(experiments))
        for line in caption(experiments):
            say(line)


MIN_NAME = 34
"""Minimum width of the names of measures; other columns are left out first."""


def results_table(experiments: Sequence[Experiment]) -> DataTable:
    """Every measure under its experiment's name; a missed goal is marked."""
    numbers = DataColumn("value"), DataColumn("spread", drop=2), DataColumn("n", drop=3), DataColumn("goal", drop=1)
    name = DataColumn("measure", number=False, shorten=_fold_names, least=MIN_NAME)
    table = DataTable((name, *numbers, DataColumn("met", number=False)))
    for experiment in experiments:
        measures = experiment.result.measures if experiment.result else ()
        if measures:
            if table.rows:
                table.add(*[""] * len(table.columns))
            table.add(Text(experiment.slug, "bold"), *[""] * (len(table.columns) - 1))
        for measure in measures:
            table.add(Text(f"{_INDENT}{measure.name}"), *_cells(measure))
    return table


def caption(experiments: Sequence[Experiment]) -> list[str]:
    """The number of measures, the number of missed goals, and the experiments without a result."""
    measures = [m for experiment in experiments if experiment.result for m in experiment.result.measures]
    missed = sum(measure.met is False for measure in measures)
    without = [experiment.slug for experiment in experiments if experiment.result is None]
    lines = [f"{format_count(len(measures), 'measure')}, {format_count(missed, 'missed goal')}"]
    return [*lines, *([f"without a result: {', '.join(without)}"] if without else [])]


_INDENT = "  "


def _fold_names(names: Sequence[str], width: int) -> list[str]:
    """Break the indented names of measures after underscores, and names of experiments as a terminal does."""
    return [_folded(name, width) if name.startswith(_INDENT) else name for name in names]


def _folded(name: str, width: int) -> str:
    """An indented name, broken after underscores where it is longer."""
    lines = [_INDENT]
    for word in re.findall(r"[^_]*_|[^_]+", name.strip()):
        if len(lines[-1]) + len(word) > width and lines[-1].strip():
            lines.append(2 * _INDENT)
        lines[-1] += word
    return "\n".join(lines)


def _cells(measure: Measure) -> tuple[Text, ...]:
    """The cells of a measure, without its name."""
    known = measure.low is not None or measure.high is not None
    return (
        Text(f"{_digits(measure.value)} {measure.unit}".rstrip()),
        Text(f"{_digits(measure.low, 3)} to {_digits(measure.high, 3)}" if known else ""),
        Text(str(measure.n)),
        Text(measure.goal or ""),
        {True: Text("yes", "green"), False: Text("MISSED", "bold red"), None: Text("")}[measure.met],
    )


def _digits(value: float | None, significant: int = 5) -> str:
    if value is None:
        return "?"
    return f"{int(value):,}" if value.is_integer() and abs(value) < 2**53 else f"{value:.{significant}g}"
