"""The minimum cut between two ends of a directed network, by scipy's maximum flow."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from sepnas.errors import SpecError

NEVER = math.inf
"""The weight of an arc that is never cut."""
Arcs: TypeAlias = dict[tuple[str, str], float]
"""The weight of each arc, by the names of its ends."""
_UNITS = 1 << 29
"""Flows are whole numbers of 32 bits: all weights together are as many units, and what is never cut has twice that."""


def first_side(arcs: Arcs, source: str, sink: str) -> set[str] | None:
    """The nodes on the source's side of a cut of least weight; the fewest, if several cuts are equal.

    None if every cut holds an arc that is never cut.
    """
    graphs, sparse = _scipy()
    places = {name: place for place, name in enumerate(dict.fromkeys(name for arc in arcs for name in arc))}
    total = sum(weight for weight in arcs.values() if weight != NEVER) or 1.0
    units = [2 * _UNITS if weight == NEVER else round(weight * _UNITS / total) for weight in arcs.values()]
    rows, columns = ([places[arc[end]] for arc in arcs] for end in (0, 1))
    size = len(places)
    capacity = sparse.csr_matrix((units, (rows, columns)), shape=(size, size), dtype="int32")
    found = graphs.maximum_flow(capacity, places[source], places[sink])
    if found.flow_value >= 2 * _UNITS:
        return None
    left = capacity - found.flow
    left.eliminate_zeros()
    order = graphs.breadth_first_order(left, places[source], return_predecessors=False)
    names = list(places)
    return {names[place] for place in order}


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import sparse
        from scipy.sparse import csgraph
    except ImportError:
        raise SpecError("a minimum cut needs scipy, which is not installed: pip install 'sepnas[train]'") from None
    return csgraph, sparse
