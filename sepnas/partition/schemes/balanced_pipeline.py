"""Balanced pipeline (Hadidi et al.): stages of consecutive layers; several devices share a stage that is slow.

A stage of one device computes whole layers. A stage of several splits its layers among them, by rows or by output
channels, whichever takes less. The cuts, the devices of each stage and the splits make the slowest stage fast, whether
it computes or waits for its input. With N devices in one stage this is the split by rows or by output channels, with
one device in each the pipeline; the bytes and the MACs of each stage are theirs, and a cut to a stage of k devices
that split by rows costs the bytes of what crosses it and the halos, each sent once to each device that uses it.

A plan is one request, so a stage that is replicated over devices that take turns is several plans: a deployment can
hold them, and a client may alternate between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sepnas.errors import PlanError
from sepnas.partition.estimates import MACS_PER_BYTE, SplitTimes
from sepnas.partition.graph import Graph
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.scheme import Scheme, Shares, split_where_possible
from sepnas.partition.stages import crossing_bytes

_WITHIN = ("H", "C")
"""The axes along which a stage is split among its devices: rows, output channels."""


@dataclass(frozen=True)
class Stage:
    """Nodes ``start`` to ``stop`` on devices ``first`` to ``last``, split along an axis of this name."""

    start: int
    stop: int
    first: int
    last: int
    letter: str


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    splits, found = _Splits(graph, shares), dict[str, Layout]()
    for stage in best_stages(graph, shares, splits):
        layouts = splits.times(stage.first, stage.last, stage.letter).layouts
        found |= {node.name: layouts[node.name] for node in graph.nodes[stage.start : stage.stop]}
    return found


class _Splits:
    """The graph as split among some devices that follow each other, for each choice of them."""

    def __init__(self, graph: Graph, shares: Shares) -> None:
        self.graph, self.shares = graph, shares
        self._times: dict[tuple[int, int, str], SplitTimes] = {}
        self._sums: dict[tuple[tuple[float, ...], str], tuple[list[float], list[int]]] = {}

    def times(self, first: int, last: int, letter: str) -> SplitTimes:
        """The times if devices ``first`` to ``last`` split each node, and what cannot be split is on the first."""
        key = first, last, letter
        if key not in self._times:
            own = [share if first <= rank <= last else 0.0 for rank, share in enumerate(self.shares)]
            self._times[key] = SplitTimes(self.graph, split_where_possible(self.graph, letter, own), self.shares)
        return self._times[key]

    def sums(self, first: int, last: int, letter: str) -> tuple[list[float], list[int]]:
        """The time of all nodes before each place, and the number of those in which all of these devices work."""
        key = tuple(self.shares[first : last + 1]), letter  # equal devices take equally long
        if key not in self._sums:
            times, count = self.times(first, last, letter), last - first + 1
            shared = [
                len(times.layouts[node.name].owners) == count and self.graph.macs_of(node) > 0
                for node in self.graph.nodes
            ]
            self._sums[key] = [0.0, *accumulate(times.by_place())], [0, *accumulate(shared)]
        return self._sums[key]


def best_stages(graph: Graph, shares: Shares, splits: _Splits) -> Sequence[Stage]:
    """The stages of the fastest pipeline; of equal ones, that with the least work altogether."""
    crossing = crossing_bytes(graph)
    places = [0, *(p for p, each in enumerate(crossing) if p and each is not None and graph.macs_of(graph.nodes[p]))]
    best: dict[tuple[int, int], tuple[tuple[float, float], tuple[Stage, ...]]] = {(0, 0): ((0.0, 0.0), ())}
    for first in range(len(shares)):
        begun = [(place, found) for (place, taken), found in best.items() if taken == first]
        for last, letter, stops in _choices(first, len(shares), [*places, len(graph.nodes)]):
            sums, shared = splits.sums(first, last, letter)
            for start, ((slowest, total), before) in begun:
                sending = MACS_PER_BYTE * (crossing[start] or 0)
                for stop in stops:
                    if stop <= start or shared[stop] == shared[start]:
                        continue
                    time = sums[stop] - sums[start]
                    cost = max(slowest, time, sending), total + time
                    key = stop, last + 1
                    if key not in best or cost < best[key][0]:
                        best[key] = cost, (*before, Stage(start, stop, first, last, letter))
    if (len(graph.nodes), len(shares)) not in best:
        raise PlanError(f"network '{graph.name}' has no stages in which all of {len(shares)} devices work")
    return best[len(graph.nodes), len(shares)][1]


def _choices(first: int, count: int, places: Sequence[int]) -> Iterator[tuple[int, str, Sequence[int]]]:
    """The last device and the axis of a stage, and the places at which it may end."""
    for last in range(first, count):
        for letter in _WITHIN if last > first else _WITHIN[:1]:
            yield last, letter, places[-1:] if last == count - 1 else places[:-1]


SCHEME = Scheme("balanced-pipeline", "a pipeline whose slow stages are split over several devices", 11, _layouts)
