"""The borders of fused runs: where tiles are exchanged anew, chosen by an estimate of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sepnas.partition.estimates import MACS_PER_BYTE, MACS_PER_EXCHANGE, lacked_values, multiplying_places
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import parts_of
from sepnas.partition.propagation import fused
from sepnas.partition.regions import Layout, joined
from sepnas.plan.shapes import FLOAT_BYTES, Region

MAX_RUN = 64
"""Maximum number of operators in a run that multiply; bounds the time of the choice. A longer run costs nothing to
interrupt where operators need no neighbours, and has borders of 64 or more pixels where they do."""


def runs_by_cost(graph: Graph, base: Mapping[str, Layout], shares: Sequence[float]) -> dict[str, Layout]:
    """Fused layouts of the runs whose estimated time is lowest; ``base`` has the tiles. Nodes on one device are apart.

    The time of a run is that of its slowest device, of the bytes that are sent before it, and of one exchange.
    """
    return fused(graph, base, runs_between(graph, base, best_borders(graph, base, shares)))


def runs_between(graph: Graph, base: Mapping[str, Layout], borders: Sequence[int]) -> dict[str, int]:
    """The run of each node that is split: nodes from one of ``borders``, places in the graph, up to the next."""
    run, found = 0, {}
    for place, node in enumerate(graph.nodes):
        run += place in borders
        if len(base[node.name].devices) > 1:
            found[node.name] = run
    return found


def best_borders(graph: Graph, base: Mapping[str, Layout], shares: Sequence[float]) -> list[int]:
    """The places at which runs begin, by dynamic programming over the places of operators that multiply."""
    starts = [0, *(place for place in multiplying_places(graph) if place)]
    ends = [*starts[1:], len(graph.nodes)]
    best: list[tuple[float, int]] = []
    uses = _Uses(graph)
    for last in range(len(starts)):
        first_of_all = max(0, last + 1 - MAX_RUN)
        found = _Costs(graph, base, shares, ends[last], uses).of(starts[first_of_all : last + 1])
        costs = {first_of_all + index: cost for index, cost in found.items()}
        best.append(min((cost + (best[first - 1][0] if first else 0.0), first) for first, cost in costs.items()))
    borders, last = [], len(starts) - 1
    while last >= 0:
        first = best[last][1]
        borders.append(starts[first])
        last = first - 1
    return borders[::-1]


class _Uses:
    """Who makes each tensor of a graph, and the place of its last use; the graph's end for an output."""

    def __init__(self, graph: Graph) -> None:
        self.makers = graph.makers
        self.last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs.values()}
        self.last |= dict.fromkeys((output.tensor for output in graph.outputs), len(graph.nodes))


class _Costs:
    """The costs of runs that end at one place, for all starts, from the last to the first."""

    def __init__(
        self, graph: Graph, base: Mapping[str, Layout], shares: Sequence[float], stop: int, uses: _Uses
    ) -> None:
        self.graph, self.base, self.stop, self.uses = graph, base, stop, uses
        total = sum(shares)
        self.shares = [share * len(shares) / total for share in shares]
        self.needs: dict[str, dict[int, list[Region]]] = {}
        self.macs = [0.0] * len(shares)
        self.inside: set[str] = set()

    def of(self, starts: Sequence[int]) -> dict[int, float]:
        """The cost of a run from each start, by the index of the start."""
        found, place = {}, self.stop
        for index in range(len(starts) - 1, -1, -1):
            while place > starts[index]:
                place -= 1
                self._take(self.graph.nodes[place])
            slowest = max(macs / share for macs, share in zip(self.macs, self.shares, strict=True))
            sent = self._sent_bytes()
            found[index] = slowest + (MACS_PER_EXCHANGE + MACS_PER_BYTE * sent if sent else 0.0)
            if found[index] > 4 * min(found.values()) and len(found) > 8:
                break
        return found

    def _take(self, node: GraphNode) -> None:
        """Put a node before the run, with what the run needs of it."""
        layout = self.base[node.name]
        if len(layout.devices) < 2:
            for part in parts_of(self.graph, node, layout):
                self.macs[part.device] += part.macs
            return
        self.inside.update(node.outputs)
        regions = {device: list(found) for device, found in self.needs.pop(node.outputs[0], {}).items()}
        if self.uses.last.get(node.outputs[0], -1) >= self.stop or not regions:
            for device, region in layout.pieces:
                regions.setdefault(device, []).append(region)
        pieces = tuple((device, region) for device, found in regions.items() for region in joined(found))
        for part in parts_of(self.graph, node, Layout(pieces, layout.spans)):
            self.macs[part.device] += part.macs
            for role, region in part.needs.items():
                self.needs.setdefault(node.inputs[role], {}).setdefault(part.device, []).append(region)

    def _sent_bytes(self) -> float:
        """The bytes of the run's inputs that the slowest device is sent; the client's inputs cost nothing here."""
        received = [0] * len(self.macs)
        for name, needs in self.needs.items():
            if name in self.uses.makers:
                layout = self.base[self.uses.makers[name].name]
                for device, regions in needs.items():
                    received[device] += FLOAT_BYTES * lacked_values(regions, layout, device)
        return max(received)
