"""What the commands share: how values are read, how numbers look, and where things are printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from sepnas.report.provenance import command_line
from sepnas.spec.cluster import Cluster

console = Console(soft_wrap=False, highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def text_of(text: str) -> str:
    """A value as it was typed; an empty one (an unset variable of the shell) is refused."""
    if not text:
        raise typer.BadParameter("is empty")
    return text


def path_of(text: str) -> Path:
    """A path; an empty one, which Python reads as the current folder, is refused."""
    return Path(text_of(text))


TEXT: dict[str, Any] = {"parser": text_of, "metavar": "TEXT"}
SOON_DAYS = 30
"""A certificate that ends within so many days is pointed out."""
PATH: dict[str, Any] = {"parser": path_of, "metavar": "PATH"}
FILE: dict[str, Any] = {"parser": path_of, "metavar": "FILE"}
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
        errors.print(f"interrupted; what was finished is kept in {folder}; go on with: {command}", markup=False)
        raise typer.Exit(130) from None


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def seconds(value: float) -> str:
    """A time at a readable scale."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} us"
