"""``sepnas front`` and ``pick``: read what a search found, take one point of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepnas.cli.again import data_options
from sepnas.cli.common import FILE, number, path_to, print_json, say, seconds, warn
from sepnas.cli.quantities import energy_j, share, size_bytes, time_s
from sepnas.cli.tables import DataColumn, DataTable, print_table, text_column
from sepnas.errors import SearchError
from sepnas.report.units import format_count, format_idle
from sepnas.spec.space_parts import ACCURACIES

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.folder import SearchRun
    from sepnas.search.found import Found

Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", parser=path_to("search"), help="The folder of a search (its --out), finished or not."
    ),
]
MaxBytes = Annotated[
    float | None,
    typer.Option(parser=size_bytes, metavar="SIZE", help="Most payload of one inference: 200KB, 64KiB, 50000 (bytes)."),
]
MaxLatency = Annotated[
    float | None, typer.Option(parser=time_s, metavar="TIME", help="Longest latency, as simulated: 20ms, 800us, 1.5s.")
]
MaxEnergy = Annotated[
    float | None,
    typer.Option(parser=energy_j, metavar="ENERGY", help="Most energy, all devices: 0.5J, 20mJ."),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(parser=size_bytes, metavar="SIZE", help="Most memory of the fullest device: 512KiB."),
]
MinAccuracy = Annotated[
    float | None, typer.Option(parser=share, metavar="SHARE", help="Least validation accuracy: 95% or 0.95.")
]
MinOneLost = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy-one-lost", parser=share, metavar="SHARE",
        help="Least accuracy with one device lost, where the space has it for an objective.",
    ),
]  # fmt: skip


class SortKey(str, Enum):
    """What the table can be sorted by; the best stands first."""

    BYTES, LATENCY, ACCURACY = "bytes", "latency", "accuracy"
    ENERGY, MEMORY, CANDIDATE = "energy", "memory", "candidate"


_SORTS: dict[SortKey, Callable[[Candidate], float]] = {
    SortKey.BYTES: lambda c: c.costs["payload_bytes"],
    SortKey.LATENCY: lambda c: c.costs["latency_s"],
    SortKey.ACCURACY: lambda c: -c.objectives["accuracy"],
    SortKey.ENERGY: lambda c: c.costs["energy_j"],
    SortKey.MEMORY: lambda c: c.costs["memory_bytes"],
    SortKey.CANDIDATE: lambda c: c.index,
}


def front(
    run: Run,
    max_bytes: MaxBytes = None,
    max_latency: MaxLatency = None,
    max_energy: MaxEnergy = None,
    max_memory: MaxMemory = None,
    min_accuracy: MinAccuracy = None,
    min_accuracy_one_lost: MinOneLost = None,
    sort: Annotated[
        SortKey, typer.Option(metavar="WHAT", help=f"{', '.join(SortKey)}: the best first.")
    ] = SortKey.BYTES,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the Pareto front of a search: what each point costs, and what its policy is like.

    Sizes count 1000 bytes to a KB and 1024 to a KiB. The knee is the point nearest to the ideal one, each objective
    scaled to the front's own range. Of a search that is not finished it is the front of what is judged so far.

    Bounds may be combined; without any all points are shown.

    Example: `sepnas front runs/search --max-bytes 200KB --min-accuracy 90% --sort accuracy`
    """
    from sepnas.search.choose import Bounds
    from sepnas.search.found import Found

    found = Found.load(run)
    bounds = Bounds(max_latency, max_bytes, min_accuracy, max_energy, max_memory, min_accuracy_one_lost)
    shown = sorted(found.within(bounds), key=_SORTS[sort])
    if json_:
        print_json(_front_data(found, shown))
        return
    print_front(shown, found.knee)
    where = f" within {bounds}" if bounds else ""
    say(
        f"{format_count(len(shown), 'point')}{where}; {found.course()}; "
        f"the knee of the whole front is candidate {_line(found.knee)}"
    )
    _warn_of_idle(found.knee, "the knee: ")


def pick(
    run: Run,
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
    from dataclasses import astuple

    from sepnas.search.choose import Bounds
    from sepnas.search.choose import pick as choose
    from sepnas.search.found import Found

    found = Found.load(run)
    bounds = Bounds(max_latency, max_bytes, min_accuracy, max_energy, max_memory, min_accuracy_one_lost)
    if candidate is None:
        chosen = choose(found.candidates, *astuple(bounds))
    else:
        chosen = found.candidate(candidate)
        if bounds.excess(chosen):
            raise SearchError(f"candidate {candidate} does not keep {bounds}: it has {bounds.told(chosen)}")
    chosen.architecture.save(out)
    print_front([chosen], found.knee)
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


def _warn_of_idle(candidate: Candidate, head: str = "") -> None:
    """Say which devices a candidate does not need."""
    from sepnas.search.traits import used_devices

    idle = format_idle(used_devices(candidate), candidate.architecture.num_devices)
    if idle:
        warn(
            f"{head}{idle}; a search whose space says `constraints: {{devices_used: N}}` finds none that uses fewer "
            "than N"
        )


def print_front(front: Sequence[Candidate], knee: Candidate) -> None:
    """Candidates as a table; energy only where the cluster says what power its devices draw."""
    from sepnas.report.units import format_bytes
    from sepnas.search.traits import policy_traits, share_of_all_to_all, used_devices

    energy = any(candidate.costs["energy_j"] for candidate in front)
    one_lost = any("accuracy_one_lost" in candidate.objectives for candidate in front)
    accuracies = [DataColumn("accuracy"), *([DataColumn("one\nlost", drop=1)] if one_lost else [])]
    numbers = [DataColumn("latency"), DataColumn("payload\nbytes"), DataColumn("of all-\nto-all", drop=5)]
    numbers.append(DataColumn("devices\nused", drop=2))
    numbers += [*([DataColumn("energy", drop=3)] if energy else []), DataColumn("memory", drop=4)]
    table = DataTable((text_column("candidate"), *accuracies, *numbers, text_column("policy", drop=1)))
    for candidate in front:
        costs, part = candidate.costs, share_of_all_to_all(candidate)
        at_knee = candidate.key == knee.key
        table.add(
            f"{candidate.index} knee" if at_knee else str(candidate.index),
            f"{candidate.objectives['accuracy']:.2%}",
            *([f"{candidate.objectives['accuracy_one_lost']:.2%}"] if one_lost else []),
            seconds(costs["latency_s"]),
            number(int(costs["payload_bytes"])),
            "" if part is None else f"{part:.1%}",
            f"{len(used_devices(candidate))} of {candidate.architecture.num_devices}",
            *([f"{costs['energy_j']:.3g} J"] if energy else []),
            format_bytes(costs["memory_bytes"]),
            policy_traits(candidate).phrase,
            style="bold" if at_knee else None,
        )
    print_table(table)


def _line(candidate: Candidate) -> str:
    costs = candidate.costs
    return (
        f"{candidate.index}: {candidate.objectives['accuracy']:.2%}, {seconds(costs['latency_s'])}, "
        f"{number(int(costs['payload_bytes']))} bytes"
    )


def _front_data(found: Found, shown: Sequence[Candidate]) -> dict[str, Any]:
    from dataclasses import asdict

    from sepnas.search.traits import policy_traits, share_of_all_to_all, used_devices

    return {
        "space": found.run.space.name,
        "finished": found.finished,
        "judged": len(found.candidates),
        "wanted": found.run.candidates,
        "hypervolume": found.history()[-1].hypervolume,
        "knee": found.knee.index,
        "candidates": [
            {
                "candidate": candidate.index,
                "key": candidate.key,
                **{name: value for name, value in candidate.objectives.items() if name in ACCURACIES},
                **{name: int(cost) if name.endswith("_bytes") else cost for name, cost in candidate.costs.items()},
                "share_of_all_to_all": share_of_all_to_all(candidate),
                "devices": candidate.architecture.num_devices,
                "devices_used": used_devices(candidate),
                "policy": asdict(policy_traits(candidate)),
            }
            for candidate in shown
        ],
    }
