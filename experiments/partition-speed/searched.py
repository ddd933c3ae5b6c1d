"""What ``sepnas partition`` finds for the published cases: uneven shares, mixtures of schemes, fewer boards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from boards import cluster
from cells import Cells
from predicted import SPEEDS_COMPARED, WIRES, costs, fingerprint, with_pixels, with_wire
from published import PUBLISHED, Published

from sepnas.assign.assignment import assignment_of
from sepnas.errors import SepnasError
from sepnas.partition.graph import Graph

Row = dict[str, Any]
SEARCHED = "search"
"""Stands for the scheme in the rows of the search."""


def searched_rows(cells: Cells, graphs: Mapping[str, Graph]) -> Iterator[Row]:
    """A row for each published case, speed and wire format; the plan is the best one in fp32."""
    for case in PUBLISHED:
        if case.network not in graphs:
            continue
        for speed in SPEEDS_COMPARED:
            graph = graphs[case.network]
            found = cells.get(f"search {case} {speed} {fingerprint()}", partial(_cell, graph, case, speed))
            facts = {"network": case.network, "devices": case.devices, "scheme": SEARCHED, "source": case.source}
            yield from (facts | row for row in found["rows"])


def _cell(graph: Graph, case: Published, speed: str) -> Row:
    where = cluster(case.board, case.devices, case.link, speed)
    try:
        found = assignment_of(graph, where, case.objective)
    except SepnasError as error:
        print(f"{case.source} {speed}: {error}", flush=True)
        return {"rows": [], "reason": str(error)}
    chosen = found.chosen
    print(f"{case.source} {speed}: {chosen.scheme} over {len(chosen.devices)}, {chosen.costs}", flush=True)
    plan = with_pixels(chosen.plan)
    pipelined = case.objective == "throughput"
    facts = {"board": case.board, "speed": speed, "link": case.link, "found": chosen.scheme}
    return {"rows": [facts | {"wire": wire} | costs(with_wire(plan, wire), where, pipelined) for wire in WIRES]}
