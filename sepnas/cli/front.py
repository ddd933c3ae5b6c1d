"""``sepnas front``: show the Pareto front of a search."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepnas.cli.bounds import BoundOptions
from sepnas.cli.grouped import grouped
from sepnas.cli.options import SearchFolder
from sepnas.console import print_json, say, warn
from sepnas.objectives import ACCURACY, LATENCY_S, OBJECTIVES, PAYLOAD_BYTES, Objective, shown_objectives
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_idle

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.found import Found


_SORTED_BY = {objective.short: objective for objective in OBJECTIVES.values() if objective.short} | dict(OBJECTIVES)
SortKey = Enum("SortKey", {key: key for key in (*_SORTED_BY, "candidate")}, type=str)  # type: ignore[misc]
"""Sort keys of the table; the best candidate comes first."""
_BY_BYTES = SortKey("bytes")
_SHORT_KEYS = [objective.short for objective in OBJECTIVES.values() if objective.short]
_SORT_HELP = f"{', '.join(_SHORT_KEYS)}, candidate, or the name of an objective; the best comes first."


@grouped
def front(
    run: SearchFolder,
    limits: BoundOptions,
    sort: Annotated[SortKey, typer.Option(metavar="WHAT", help=_SORT_HELP)] = _BY_BYTES,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the Pareto front of a search: the cost of each point, and a summary of its policy.

    Sizes: a KB has 1000 bytes, a KiB 1024. The knee is the point nearest to the ideal one, with each objective scaled
    to the front's own range. For an unfinished search it is the front of the candidates evaluated so far.

    Bounds may be combined; without bounds all points are shown. `--bound` takes every objective; quote it, because the
    shell reads an unquoted `<` as a redirection. `--max-latency 20ms` is short for `--bound 'latency_s<=20ms'`.

    Examples: `sepnas front runs/search --max-bytes 200KB --min-accuracy 90% --sort accuracy`, `sepnas front runs/search
    --bound 'makespan_s<=20ms' --sort makespan_s`
    """
    from sepnas.search.found import Found

    found = Found.load(run)
    bounds = limits.bounds()
    asked = list(dict.fromkeys((*(bound.objective for bound in bounds), *_named_by(sort.value))))
    found.check_known(asked)
    shown = sorted(found.within(bounds), key=partial(_sort_value, sort.value))
    if json_:
        print_json(_front_data(found, shown))
        return
    print_front(shown, found.knee, {objective.name for objective in asked})
    where = f" within {bounds}" if bounds else ""
    say(
        f"{format_count(len(shown), 'point')}{where}; {found.course()}; "
        f"the knee of the whole front is candidate {_line(found.knee)}"
    )
    warn_of_idle(found.knee, "the knee: ")


def warn_of_idle(candidate: Candidate, head: str = "") -> None:
    """Warn of devices that a candidate does not need."""
    from sepnas.search.traits import used_devices

    idle = format_idle(used_devices(candidate), candidate.architecture.num_devices)
    if idle:
        warn(
            f"{head}{idle}; a search whose space says `constraints: {{devices_used: N}}` finds none that uses fewer "
            "than N"
        )


def print_front(front: Sequence[Candidate], knee: Candidate | None, asked: Collection[str] = ()) -> None:
    """Print candidates as a table, with a column for each objective of their space, in ``asked``, or always shown."""
    from sepnas.search.traits import policy_traits, share_of_all_to_all, used_devices

    objectives = shown_objectives([candidate.measured for candidate in front], {*asked, *front[0].objectives})
    numbers = [DataColumn(objective.heading, drop=objective.drop) for objective in objectives]
    numbers += [DataColumn("of all-\nto-all", drop=5), DataColumn("devices\nused", drop=2)]
    table = DataTable((text_column("candidate"), *numbers, text_column("policy", drop=1)))
    for candidate in front:
        part, at_knee = share_of_all_to_all(candidate), knee is not None and candidate.key == knee.key
        table.add(
            f"{candidate.index} knee" if at_knee else str(candidate.index),
            *(_cell(objective, candidate) for objective in objectives),
            "" if part is None else f"{part:.1%}",
            f"{len(used_devices(candidate))} of {candidate.architecture.num_devices}",
            policy_traits(candidate).phrase,
            style="bold" if at_knee else None,
        )
    print_table(table)


def _cell(objective: Objective, candidate: Candidate) -> str:
    value = objective.known_value(candidate.measured)
    return "" if value is None else objective.text(value)


def _named_by(sort: str) -> tuple[Objective, ...]:
    """The objective that a sort key names."""
    return (_SORTED_BY[sort],) if sort in _SORTED_BY else ()


def _sort_value(sort: str, candidate: Candidate) -> float:
    objective = _SORTED_BY.get(sort)
    return candidate.index if objective is None else objective.sort_key(objective.value(candidate.measured))


def _line(candidate: Candidate) -> str:
    told = (each.text(each.value(candidate.measured)) for each in (ACCURACY, LATENCY_S, PAYLOAD_BYTES))
    return f"{candidate.index}: {', '.join(told)} payload bytes"


def _front_data(found: Found, shown: Sequence[Candidate]) -> dict[str, Any]:
    from dataclasses import asdict

    from sepnas.search.traits import policy_traits, share_of_all_to_all, used_devices

    return {
        "space": found.run.space.name,
        "finished": found.finished,
        "evaluated": len(found.candidates),
        "wanted": found.run.candidates,
        "hypervolume": found.history()[-1].hypervolume,
        "knee": found.knee.index,
        "candidates": [
            {
                "candidate": candidate.index,
                "key": candidate.key,
                **_numbers(candidate),
                "share_of_all_to_all": share_of_all_to_all(candidate),
                "devices": candidate.architecture.num_devices,
                "devices_used": used_devices(candidate),
                "policy": asdict(policy_traits(candidate)),
            }
            for candidate in shown
        ],
    }


def _numbers(candidate: Candidate) -> dict[str, float]:
    """The known values of each objective; counts are integers."""
    measured = candidate.measured
    return {name: known.data(measured[name]) for name, known in OBJECTIVES.items() if name in measured}
