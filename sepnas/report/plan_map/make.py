"""Makes the map of a plan, from the plan alone or with the graph of its network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add

from sepnas.partition.graph import Graph
from sepnas.plan.device_totals import macs_of_device, weight_bytes_of_device
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.report.plan_map.folding import Group, Laid, belongs, groups_of, repeats
from sepnas.report.plan_map.halos import halos_of
from sepnas.report.plan_map.layers import MappedLayer, layers_of
from sepnas.report.plan_map.messages import Messages, messages_of
from sepnas.report.plan_map.tiles import axes_of, form_of, parts_beside, tiles_of, view_of
from sepnas.report.plan_map.values import Card, CardRun, DeviceShare, Flow, PlanMap, Tile


def map_of(
    plan: Plan, names: Sequence[str], *, slug: str, title: str, lead: str = "", graph: Graph | None = None
) -> PlanMap:
    """The map of a plan on devices of these names; the graph adds names of modules and axes, and halos.

    A plan of another network than the graph's is drawn by itself.
    """
    messages = messages_of(plan)
    layers = layers_of(plan, messages.between)
    known = graph if graph is not None and {each.name for each in layers} <= {n.name for n in graph.nodes} else None
    maker = _CardMaker(plan, messages, known, layers)
    laid = [maker.laid(layer) for layer in layers]
    groups = groups_of(laid, messages.incoming)
    runs = tuple(
        CardRun(tuple(map(maker.card, places)), times)
        for places, times in repeats(groups, lambda one, other: not one[0].is_part and belongs(one[0], other[0]))
    )
    shares = tuple(_share(plan, rank, names) for rank in range(plan.num_devices))
    network_macs = known.macs if known else sum(card.network_macs for run in runs for card in run.cards)
    return PlanMap(slug, title, lead, shares, runs, messages.answer, network_macs)


def _share(plan: Plan, rank: int, names: Sequence[str]) -> DeviceShare:
    between = [(m.source, m.destination, m.payload_bytes()) for m in plan.transfers()]
    return DeviceShare(
        names[rank] if rank < len(names) else f"device {rank}",
        macs_of_device(plan, rank),
        weight_bytes_of_device(plan, rank),
        sum(nbytes for source, _, nbytes in between if source == rank),
        sum(nbytes for _, destination, nbytes in between if destination == rank),
    )


class _CardMaker:
    def __init__(self, plan: Plan, messages: Messages, graph: Graph | None, layers: Sequence[MappedLayer]) -> None:
        self.num_devices, self.messages, self.graph = plan.num_devices, messages, graph
        self.modules = {node.name: node.module for node in graph.nodes} if graph else {}
        self.axes = {node.name: graph.tensors[node.outputs[0]].axes for node in graph.nodes} if graph else {}
        by_name = {layer.name: layer for layer in layers}
        self.made: Mapping[str, MappedLayer] = {
            name: by_name[node.name] for node in (graph.nodes if graph else ()) for name in node.outputs
            if node.name in by_name
        }  # fmt: skip

    def laid(self, layer: MappedLayer) -> Laid:
        axes = axes_of(layer.dims, self.axes.get(layer.name)) if layer.dims else ""
        return Laid.of(layer, view_of(layer, axes), axes)

    def card(self, groups: Sequence[Group]) -> Card:
        """One card for the same place of every repeat."""
        layers = [each.layer for group in groups for each in group]
        shown = max(groups[0], key=lambda each: (_twice(each), sum(p.macs for p in each.layer.parts)))
        halos = halos_of(self.graph, groups[0], self.made) if self.graph else ()
        return Card(
            layers=tuple(dict.fromkeys(self.modules.get(each.layer.name) or each.layer.name for each in groups[0])),
            num_layers=len(layers),
            form=form_of(shown.layer.dims) if shown.layer.dims else "parts",
            shape="x".join(str(size) for size in shown.layer.dims[1:]),
            across=shown.view.across_word,
            down=shown.view.down_word,
            tiles=tuple(self._tiles(shown)),
            halos=halos,
            partial=shown.layer.partial,
            macs=self._macs(layers) if shown.layer.dims else (),
            network_macs=self._network_macs(layers),
            incoming=reduce(add, (self.messages.incoming.get(layer.name, Flow()) for layer in layers), Flow()),
        )

    def _tiles(self, shown: Laid) -> Iterator[Tile]:
        if shown.layer.dims:
            yield from tiles_of(shown.boxes)
        else:
            yield from parts_beside(shown.layer.devices, self.num_devices)

    def _macs(self, layers: Sequence[MappedLayer]) -> tuple[int, ...]:
        sums = [0] * self.num_devices
        for part in (part for layer in layers for part in layer.parts):
            sums[part.device] += part.macs
        return tuple(sums)

    def _network_macs(self, layers: Sequence[MappedLayer]) -> int:
        if self.graph is None:
            return sum(part.macs for layer in layers for part in layer.parts)
        names = {layer.name for layer in layers}
        return sum(self.graph.macs_of(node) for node in self.graph.nodes if node.name in names)


def _twice(each: Laid) -> float:
    """The share of a layer that more than one device computes."""
    boxes = [box for box, _ in each.boxes]
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) if len(boxes) > 1 else 0.0


def between_devices(flow: Flow) -> int:
    """The bytes of a flow without the client's."""
    return sum(nbytes for way, nbytes in flow.nbytes.items() if CLIENT not in way)
