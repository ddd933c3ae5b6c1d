"""``sepnas pick``: take one point of a search's front."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.front import (
    _warn_of_idle,  # BACK
    print_front,  # BACK
)
from sepnas.cli.options import FILE, MaxBytes, MaxEnergy, MaxLatency, MaxMemory, MinAccuracy, MinOneLost, SearchFolder
from sepnas.console import say
from sepnas.errors import SearchError
from sepnas.objectives import Bounds
from sepnas.report.commands import data_options

if TYPE_CHECKING:
    from sepnas.search.folder import SearchRun


def pick(
    run: SearchFolder,
    out: Annotated[Path, typer.Option(help="The architecture file to write.", **FILE)] = Path("architecture.json"),
    candidate: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Take this one, on the front or not [the best within bounds]."),
    ] = None,
    max_bytes: MaxBytes = None,
    max_latency: MaxLatency = None,
    max_energy: MaxEnergy = None,
    max_memory: MaxMemory = None,
    min_accuracy: MinAccuracy = None,
    min_accuracy_one_lost: MinOneLost = None,
) -> None:
    """Write the architecture of one candidate: the most accurate within the bounds, or the knee without any.

    The knee is the point of the front that is nearest to the ideal one, as `sepnas front` marks it.

    Example: `sepnas pick runs/search --max-bytes 200KB --max-latency 20ms --out architecture.json`
    """
    from sepnas.search.choose import pick as choose
    from sepnas.search.found import Found

    found = Found.load(run)
    bounds = Bounds.of(
        max_latency_s=max_latency, max_payload_bytes=max_bytes, min_accuracy=min_accuracy, max_energy_j=max_energy,
        max_memory_bytes=max_memory, min_accuracy_one_lost=min_accuracy_one_lost,
    )  # fmt: skip
    if candidate is None:
        chosen = choose(found.candidates, bounds)
    else:
        chosen = found.candidate(candidate)
        if bounds.excess(chosen.measured):
            raise SearchError(f"candidate {candidate} does not keep {bounds}: it has {bounds.told(chosen.measured)}")
    chosen.architecture.save(out)
    print_front([chosen], found.knee, {bound.objective.name for bound in bounds})
    if not found.finished:
        say(found.course())
    if candidate is not None and chosen not in found.front:
        say(f"candidate {candidate} is not on the front: another one is at least as good in everything")
    _warn_of_idle(chosen)
    say(f"written to {out}; next: {_train_command(run, out, found.run)}")


def _train_command(run: Path, architecture: Path, searched: SearchRun) -> str:
    """How to train what was picked from a run, on the run's data; the training goes beside the run."""
    dropout = searched.recipe.device_dropout
    options = [*data_options(searched), *(["--device-dropout", f"{dropout:g}"] if dropout else [])]
    training = run.parent / ("training" if run.name != "training" else "trained")
    return shlex.join(["sepnas", "train", str(architecture), *options, "--out", str(training)])
