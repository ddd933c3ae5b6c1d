"""What the commands share: how values are read, how numbers look, and where things are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from sepnas.console import DataConsole
from sepnas.report.provenance import command_line
from sepnas.spec.cluster import Cluster
from sepnas.spec.recognise import WORDS, Kind, recognise
from sepnas.terminal import one_line, print_line, printable

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


def text_of(text: str) -> str:
    """A value as it was typed; an empty one (an unset variable of the shell) is refused."""
    if not text:
        raise typer.BadParameter("is empty")
    return text


def path_of(text: str) -> Path:
    """A path; an empty one, which Python reads as the current folder, is refused.

    ``~`` is expanded here too: a shell leaves that of ``--out=~/x`` as it is.
    """
    try:
        return Path(text_of(text)).expanduser()
    except RuntimeError:  # of a user that there is not
        return Path(text)


def path_to(*kinds: Kind) -> Callable[[str], Path]:
    """A path to one of these; what is known to be something else of sepnas is refused, and called what it is."""

    def path(text: str) -> Path:
        found = path_of(text)
        known = recognise(found)
        if known and known[0] not in kinds:
            raise typer.BadParameter(f"{one_line(str(found))} is {known[1]}; name {WORDS[kinds[0]]}")
        return found

    return path


MAX_THREADS, MAX_DEVICES, MAX_COUNT, MAX_S = 1024, 1000, 1_000_000, 366 * 86_400
"""Of options: beyond, a number is a slip."""
TEXT: dict[str, Any] = {"parser": text_of, "metavar": "TEXT"}
SOON_DAYS = 30
"""A certificate that ends within so many days is pointed out."""
PATH: dict[str, Any] = {"parser": path_of, "metavar": "PATH"}
FILE: dict[str, Any] = {"parser": path_to("file"), "metavar": "FILE"}
FOLDER: dict[str, Any] = {"parser": path_of, "metavar": "FOLDER"}


def cluster_to_predict_with(path: Path) -> Cluster:
    """A cluster file; warns where its devices were measured with another version of the engine than is here."""
    from sepnas.measure.machine import warn_of_another_engine

    cluster = Cluster.load(path)
    warn_of_another_engine(cluster)
    return cluster


@contextmanager
def resumable(folder: Path, marker: str) -> Iterator[None]:
    """On Ctrl-C, where ``marker`` in ``folder`` says that something is kept, tell of it and of the way to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / marker).exists():
            raise
        command = command_line()
        command += "" if "--resume" in command.split() else " --resume"
        errors.print(one_line(f"interrupted; what was finished is kept in {folder}; go on with: {command}"))
        raise typer.Exit(130) from None


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def seconds(value: float) -> str:
    """A time at a readable scale."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} us"
