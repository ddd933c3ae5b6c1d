"""The counts of an imported network, printed."""

from __future__ import annotations

from dataclasses import asdict

from sepnas.console import print_json, say, warn
from sepnas.partition.counts import GraphCounts, count_graph
from sepnas.partition.graph import Graph
from sepnas.spec.document import few
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, number


def show_graph(graph: Graph, as_json: bool) -> None:
    """Print what a graph consists of: a head line, a table of its operators, and the opaque ones by name."""
    counts = count_graph(graph)
    if as_json:
        print_json(asdict(counts))
        return
    inputs, outputs = (", ".join(f"{n} {s}" for n, s in each.items()) for each in (counts.inputs, counts.outputs))
    say(f"{counts.name} ({counts.source}): {inputs} to {outputs}")
    computed = f", {number(counts.numbers_computed)} numbers computed in advance" if counts.numbers_computed else ""
    say(
        f"{number(counts.parameters)} parameters{computed}, {number(counts.macs)} MACs, "
        f"{format_count(counts.layers, 'layer')} with MACs, {format_count(len(graph.nodes), 'operator')}"
    )
    print_table(_table(counts))
    warn_of_opaque(counts)


def _table(counts: GraphCounts) -> DataTable:
    marks = [text_column("", 1)] if counts.opaque else []
    table = DataTable((text_column("operator"), DataColumn("count"), DataColumn("MACs"), *marks))
    for each in counts.operators:
        mark = ["opaque" if each.opaque else ""] if marks else []
        table.add(each.operator, number(each.count), number(each.macs), *mark)
    return table


def warn_of_opaque(counts: GraphCounts) -> None:
    """Name the operators that no scheme can split, with the modules that they come from."""
    if counts.opaque:
        warn(f"opaque, kept whole on one device, and without a price: {few(counts.opaque)}")
