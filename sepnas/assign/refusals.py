"""What an assignment search refuses: a cluster without the memory, bounds that nothing keeps."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.assign.goal import Goal
from sepnas.assign.priced import Alternative, priced
from sepnas.assign.search import AssignmentSearch
from sepnas.errors import SearchError
from sepnas.objectives import MEMORY_BYTES, Bound
from sepnas.spec.cluster import format_pairs
from sepnas.units import format_count, number


def check_memory(search: AssignmentSearch, found: Sequence[Alternative]) -> None:
    """:class:`SearchError` if no alternative fits the devices' memory; it says by how much the nearest is short."""
    if any(each.fits for each in found):
        return
    start = f"network '{search.graph.name}' does not fit cluster '{search.cluster.name}'"
    possible = [priced(each.plan, search.cluster, each.scheme, {}) for each in search.without_memory().run()]
    nearest = min([*found, *possible], key=lambda each: each.missing_bytes, default=None)
    if nearest is None:
        raise SearchError(f"{start}: nothing can be planned on it")
    raise SearchError(
        f"{start}: the nearest assignment ({nearest.scheme}, {format_count(len(nearest.devices), 'device')}) needs "
        f"{number(nearest.costs[MEMORY_BYTES.name])} bytes on its fullest device, and a device is "
        f"{number(nearest.missing_bytes)} bytes short; take more devices, or ones with more memory"
        + _without_links(search)
    )


def _without_links(search: AssignmentSearch) -> str:
    pairs = search.cluster.missing_links()
    return f"; pairs without a link: {format_pairs(pairs)}" if pairs else ""


def check_bounds(goal: Goal, nearest: Alternative) -> None:
    """:class:`SearchError` if the nearest alternative violates a bound; it says by how much."""
    missed = [bound for bound in goal.bounds if bound.excess(nearest.costs[bound.objective.name])]
    if not missed:
        return
    told = (_miss(bound, nearest.costs[bound.objective.name]) for bound in missed)
    limits = ", ".join(
        f"{bound.objective.name} {bound.objective.comparison} {bound.objective.text(bound.limit)}"
        for bound in goal.bounds
    )
    raise SearchError(
        f"no assignment keeps {limits}: the nearest ({nearest.scheme}, "
        f"{format_count(len(nearest.devices), 'device')}) has {'; '.join(told)}"
    )


def _miss(bound: Bound, value: float) -> str:
    """``latency_s 15 ms, 50.0% beyond the bound``, or ``15.0 times the bound``."""
    excess = bound.excess(value)
    far = f"{1 + excess:.1f} times" if excess > 1 else f"{excess:.1%} beyond"
    return f"{bound.objective.name} {bound.objective.text(value)}, {far} the bound"
