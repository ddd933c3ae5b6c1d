"""``sepnas pick``: save one candidate of a search as an architecture."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.bounds import BoundOptions
from sepnas.cli.front import print_front, warn_of_idle
from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, SearchFolder
from sepnas.console import say
from sepnas.errors import SearchError
from sepnas.report.commands import data_options

if TYPE_CHECKING:
    from sepnas.search.folder import SearchRun


@grouped
def pick(
    run: SearchFolder,
    limits: BoundOptions,
    out: Annotated[Path, typer.Option(help="The architecture file to write.", **FILE)] = Path("architecture.json"),
    candidate: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Pick this candidate, on the front or not [the best within the bounds]."),
    ] = None,
) -> None:
    """Write the architecture of one candidate: the most accurate within the bounds, or the knee if there are none.

    The knee is the point of the front nearest to the ideal one, as marked by `sepnas front`.

    Examples: `sepnas pick runs/search --max-bytes 200KB --max-latency 20ms --out architecture.json`, `sepnas pick
    runs/search --bound 'memory_bytes<=64KiB'`
    """
    from sepnas.search.choose import pick as choose
    from sepnas.search.found import Found

    found = Found.load(run)
    bounds = limits.bounds()
    found.check_known(bound.objective for bound in bounds)
    if candidate is None:
        chosen = choose(found.candidates, bounds)
    else:
        chosen = found.candidate(candidate)
        if bounds.excess(chosen.measured):
            raise SearchError(
                f"candidate {candidate} does not keep {bounds}: it has {bounds.describe(chosen.measured)}"
            )
    chosen.architecture.save(out)
    print_front([chosen], found.knee if found.has_front else None, {bound.objective.name for bound in bounds})
    if not found.finished:
        say(found.course())
    if chosen.excess:
        say(f"candidate {candidate} is not on the front: it violates a bound of the space")
    elif candidate is not None and chosen not in found.front:
        say(f"candidate {candidate} is not on the front: another candidate is at least as good in every objective")
    warn_of_idle(chosen)
    say(f"written to {out}; next: {_train_command(run, out, found.run)}")


def _train_command(run: Path, architecture: Path, searched: SearchRun) -> str:
    """The command that trains the picked architecture on the search's data; its folder is beside the search's."""
    dropout = searched.recipe.device_dropout
    options = [*data_options(searched), *(["--device-dropout", f"{dropout:g}"] if dropout else [])]
    training = run.parent / ("training" if run.name != "training" else "trained")
    return shlex.join(["sepnas", "train", str(architecture), *options, "--out", str(training)])
