"""Cells: one node under one layout, with all that an estimate of its cost needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sepnas.assign.facts import GraphFacts
from sepnas.cost.times import times_of
from sepnas.partition.parts import parts_of
from sepnas.partition.regions import Layout
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Segment
from sepnas.plan.shapes import FLOAT_BYTES, Region
from sepnas.spec.cluster import Cluster

Needs = Mapping[str, Mapping[int, tuple[Region, ...]]]
"""The regions that devices need, by tensor and device."""


@dataclass(frozen=True, eq=False, slots=True)
class NodeCell:
    """A node under a layout: per device the seconds of computing it, its weights and what it makes in bytes.

    Two cells are equal only if they are one object. ``number`` counts the cells of a node.
    """

    place: int
    number: int
    layout: Layout
    seconds: tuple[tuple[int, float], ...]
    weight_bytes: tuple[tuple[int, int], ...]
    made_bytes: tuple[tuple[int, int], ...]
    needs: Needs


@dataclass(frozen=True, slots=True)
class _Part:
    """What one device computes of a node, whichever device it is."""

    macs: int
    operators: tuple[Operator, ...]
    weight_bytes: int
    made_bytes: int
    needs: tuple[tuple[str, Region], ...]


class Cells:
    """The cells of all nodes on a cluster; equal layouts of a node are one cell."""

    def __init__(self, facts: GraphFacts, cluster: Cluster) -> None:
        self._facts, self._times = facts, times_of(cluster)
        self._known: dict[object, NodeCell] = {}
        self._parts: dict[object, _Part] = {}
        self._counts = [0] * len(facts.nodes)

    def of(self, place: int, layout: Layout) -> NodeCell:
        """The cell of a node under a layout; :class:`PlanError` if the node cannot be cut so."""
        key = place, layout.pieces, tuple(layout.spans.items())
        if key not in self._known:
            self._known[key] = self._made(place, layout)
        return self._known[key]

    def _made(self, place: int, layout: Layout) -> NodeCell:
        seconds, stored = dict[int, float](), dict[int, int]()
        values, needs = dict[int, int](), dict[str, dict[int, list[Region]]]()
        for device, part in self._parts_of(place, layout):
            seconds[device] = seconds.get(device, 0.0) + self._part_s(place, device, part)
            stored[device] = stored.get(device, 0) + part.weight_bytes
            values[device] = values.get(device, 0) + part.made_bytes
            for name, region in part.needs:
                needs.setdefault(name, {}).setdefault(device, []).append(region)
        self._counts[place] += 1
        found = {name: {device: tuple(each) for device, each in by.items()} for name, by in needs.items()}
        return NodeCell(
            place, self._counts[place] - 1, layout, tuple(seconds.items()), tuple(stored.items()),
            tuple(values.items()), found,
        )  # fmt: skip

    def _parts_of(self, place: int, layout: Layout) -> Iterator[tuple[int, _Part]]:
        """The parts of a layout by device; a part is made once for all devices."""
        if layout.spans:
            for device, span in layout.spans.items():
                yield device, self._part(place, ("terms", span), Layout(layout.pieces, {0: span}))
        else:
            for device, region in layout.pieces:
                yield device, self._part(place, region, Layout(((0, region),)))

    def _part(self, place: int, key: object, layout: Layout) -> _Part:
        if (place, key) not in self._parts:
            node = self._facts.nodes[place]
            [part] = parts_of(self._facts.graph, node, layout)
            stored, needs = 0, list[tuple[str, Region]]()
            for role, region in part.needs.items():
                if node.inputs[role] in self._facts.stored:
                    stored += FLOAT_BYTES * region.num_values
                else:
                    needs.append((node.inputs[role], region))
            made = FLOAT_BYTES * part.region.num_values
            self._parts[place, key] = _Part(part.macs, part.smaller.operators, stored, made, tuple(needs))
        return self._parts[place, key]

    def _part_s(self, place: int, device: int, part: _Part) -> float:
        """Seconds within a segment: as a segment of its own, without the call of the engine."""
        if not part.macs and not part.operators:
            return 0.0
        name, times = self._facts.nodes[place].name, self._times[device]
        alone = Segment(name, device, (name,), 2 * part.macs, int(part.macs > 0), 0, 0, part.operators)
        return times.segment_s(alone) - times.call_s
