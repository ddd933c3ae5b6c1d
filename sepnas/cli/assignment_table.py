"""The alternatives of an assignment as a table, and the chosen plan in words."""

from __future__ import annotations

from sepnas.assign.assignment import Assignment
from sepnas.assign.priced import Alternative
from sepnas.assign.proposal import NO_SPLIT
from sepnas.console import say, warn
from sepnas.objectives import ENERGY_J, LATENCY_S, MEMORY_BYTES, PAYLOAD_BYTES, THROUGHPUT_PER_S, TOTAL_BYTES
from sepnas.spec.cluster import format_pairs
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_threads, seconds

SMALL_GAIN = 0.01
"""A gain over one device alone that is smaller than a prediction's error by far."""
_COLUMNS = (LATENCY_S, THROUGHPUT_PER_S, PAYLOAD_BYTES, TOTAL_BYTES, MEMORY_BYTES, ENERGY_J)


def show_assignment(found: Assignment) -> None:
    """Print the alternatives, the best first, and the dimensions of the chosen plan."""
    shown = [each for each in _COLUMNS if each is LATENCY_S or _is_known(found, each)]
    headings = [DataColumn(each.heading, drop=each.drop) for each in shown]
    table = DataTable((text_column("scheme"), text_column("devices"), *headings))
    for each in found.alternatives:
        name = each.scheme if each.fits else f"{each.scheme} (too little memory)"
        table.add(name, _ranks(each), *(known.text(each.costs[known.name]) for known in shown))
    print_table(table)
    for name, text in found.dimensions.items():
        say(f"{name}: {text}")
    _say_of_fewer(found)
    if pairs := found.cluster.missing_links():
        warn(f"pairs without a link: {format_pairs(pairs)}; nothing was sent between them")
    best = found.alternatives[0]
    if best is not found.chosen:
        warn(f"{best.scheme} is better, but a plan of another network: its accuracy is its own")


def _is_known(found: Assignment, objective: object) -> bool:
    return objective is not ENERGY_J or all(device.has_figures("power") for device in found.cluster.devices)


def _ranks(each: Alternative) -> str:
    """``0..3``, or ``0, 2``."""
    ranks = each.devices
    if len(ranks) > 2 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}..{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _say_of_fewer(found: Assignment) -> None:
    """Compare with one device alone; say if it or fewer devices than there are win."""
    chosen, alone, count = found.chosen, found.alone, found.cluster.num_devices
    if alone is None:
        say("no device has the memory for the whole network")
    elif chosen.scheme == NO_SPLIT:
        warn(_why_alone(found, chosen))
    else:
        ratio = alone.costs[LATENCY_S.name] / chosen.costs[LATENCY_S.name]
        rate = chosen.costs[THROUGHPUT_PER_S.name] / alone.costs[THROUGHPUT_PER_S.name]
        say(
            f"{seconds(chosen.costs[LATENCY_S.name])} an answer on {format_threads(found.cluster.threads)}; "
            f"device {alone.devices[0]} alone: {seconds(alone.costs[LATENCY_S.name])}, {ratio:.2f} times as long; "
            f"{rate:.2f} times its throughput"
        )
        if _hardly_pays(found, alone):
            warn(f"device {alone.devices[0]} alone is as good within {SMALL_GAIN:.0%}: more devices hardly pay")
    if chosen.scheme != NO_SPLIT and len(chosen.devices) < count:
        say(f"{format_count(len(chosen.devices), 'device')} of {count} are better than all of them")


def _hardly_pays(found: Assignment, alone: Alternative) -> bool:
    """Whether one device keeps the bounds, too, and the best plan gains little over it."""
    goal, name = found.goal, found.goal.objective.name
    if goal.bounds and goal.bounds.excess(alone.costs):
        return False
    less, more = sorted(each.costs[name] for each in (found.chosen, alone))
    return more <= (1 + SMALL_GAIN) * less


def _why_alone(found: Assignment, chosen: Alternative) -> str:
    device, objective = chosen.devices[0], found.goal.objective
    threads = format_count(found.cluster.threads[device], "thread")
    start = (
        f"device {device} alone, on {threads}, answers sooner than any split"
        if objective is LATENCY_S
        else (f"device {device} alone, on {threads}, has the best {objective.label} of all alternatives")
    )
    return f"{start}: use no more devices for this network, objective and cluster"
