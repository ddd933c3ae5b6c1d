"""Rows, then channels: early layers are split by rows, later ones by output channels, with the re-layout priced.

Before the switch, layers cost what they cost by rows; after it, what they cost by output channels. At the switch each
device is sent all channels of the others' rows: ``4 (N - 1) V`` bytes in fp32 for V values, which is the all-gather
that a layer split by output channels needs anyway. The MACs are those of the network. The switch is the place of the
lowest estimated time (:mod:`sepnas.partition.estimates`); before the first layer or after the last one, one scheme is
left.
"""

from __future__ import annotations

from sepnas.partition.estimates import SplitTimes, exchange_time
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts
from sepnas.partition.propagation import consumers_of
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    rows, channels = (SplitTimes(graph, split_where_possible(graph, letter, shares), shares) for letter in "HC")
    places = [0, *(p for p, node in enumerate(graph.nodes) if _may_switch(graph, node)), len(graph.nodes)]
    times = _Switches(graph, rows, channels)
    return switched(graph, rows.layouts, channels.layouts, min(places, key=times.of))


def _may_switch(graph: Graph, node: GraphNode) -> bool:
    return graph.macs_of(node) > 0 or node.operator == "reshape"


def switched(graph: Graph, early: Layouts, late: Layouts, place: int) -> dict[str, Layout]:
    """The nodes before a place as in one layout, the others as in another one."""
    return {node.name: (early if at < place else late)[node.name] for at, node in enumerate(graph.nodes)}


class _Switches:
    """The estimated time of a network for each place of the switch."""

    def __init__(self, graph: Graph, early: SplitTimes, late: SplitTimes) -> None:
        self.graph, self.early, self.late = graph, early, late
        self.places = {node.name: place for place, node in enumerate(graph.nodes)}
        self.consumers = consumers_of(graph)
        self.spans = [
            (place, max((self.places[each.name] for each in self.consumers.get(name, ())), default=-1), node, name)
            for place, node in enumerate(graph.nodes)
            for name in node.outputs
        ]
        """Each tensor with the place where it is made, and that of its last use."""

    def of(self, switch: int) -> float:
        computing = sum(self.early.computing[:switch]) + sum(self.late.computing[switch:])
        early, late = self.early.exchanging, self.late.exchanging
        return computing + sum(
            late[name] if made >= switch else early[name] if last < switch else self._across(node, name, switch)
            for made, last, node, name in self.spans
        )

    def _across(self, node: GraphNode, name: str, switch: int) -> float:
        """The time to exchange a tensor that is made before the switch and used after it."""
        readers = [
            part
            for each in self.consumers[name]
            for part in (self.early if self.places[each.name] < switch else self.late).parts[each.name]
        ]
        return exchange_time(name, self.early.layouts[node.name], readers)


SCHEME = Scheme("rows-then-channels", "early layers by rows, late ones by output channels", 12, _layouts)
