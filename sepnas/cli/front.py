"""``sepnas front`` and ``pick``: read what a search found, take one point of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepnas.cli.options import (
    MaxBytes,
    MaxEnergy,
    MaxLatency,
    MaxMemory,
    MinAccuracy,
    MinOneLost,
    SearchFolder,
)
from sepnas.console import print_json, say, warn
from sepnas.separable.space_parts import ACCURACIES
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_idle, number, seconds

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.found import Found


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
    run: SearchFolder,
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
    from sepnas.search.traits import policy_traits, share_of_all_to_all, used_devices
    from sepnas.units import format_bytes

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
