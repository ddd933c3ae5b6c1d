"""The tiled layers of a separated network: the first ones, which stay exact, with a tile of each map for each device.

Early maps are large and have few channels: what a device lacks of a map is a rim, what it lacks of the channels is most
of them. So the devices share the first layers by tiles, each with the rims that its later ones need (fused tiles), and
no message crosses until they end. Their last tensor is the first exchange point: each device mixes the channels of its
tile for each other one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.parts import Layouts, parts_of
from sepnas.partition.propagation import consumers_of, fused
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.grid import tile
from sepnas.plan.kinds.kind import Dims
from sepnas.separation.atoms import EVERYWHERE, READ_OUT
from sepnas.separation.channels import ChannelMap, HowComputed
from sepnas.spec.document import few

AUTO_TILES, NO_TILES = "auto", "none"
"""In place of a tensor: the one that suits a cluster, and no tiles."""
_MAP = "NCHW"


@dataclass(frozen=True, eq=False)
class TiledLayers:
    """The layers up to ``tensor``: the names of their nodes, and the atoms of what they make.

    Tiles are in proportion to ``shares`` of the devices.
    """

    graph: Graph
    tensor: str
    nodes: frozenset[str]
    atoms: frozenset[int]
    shares: tuple[float, ...]

    @cached_property
    def tile_values(self) -> tuple[int, ...]:
        """The values of one channel of the last tensor in the tile of each device."""
        found = [0] * len(self.shares)
        for device, region in _tile_of(self.graph.tensors[self.tensor].dims, self.shares).pieces:
            (top, bottom), (left, right) = region.ranges[2:]
            found[device] = (bottom - top) * (right - left)
        return tuple(found)

    @cached_property
    def repeated_work(self) -> float:
        """The multiply-adds of all devices as a multiple of those of the layers: rims are computed several times."""
        layouts = tile_layouts(self.graph, self.nodes, self.shares)
        nodes = [node for node in self.graph.nodes if node.name in self.nodes]
        done = sum(part.macs for node in nodes for part in parts_of(self.graph, node, layouts[node.name]))
        return done / max(1, sum(self.graph.macs_of(node) for node in nodes))


def tiled_layers_until(channels: ChannelMap, tensor: str, shares: Collection[float]) -> TiledLayers:
    """The layers up to a tensor; :class:`SpecError` that lists the possible tensors if tiles cannot end there."""
    found = dict(_cuts(channels))
    if tensor not in found:
        sizes = channels.graph.tensors
        allowed = few([f"'{name}' ({'x'.join(map(str, sizes[name].dims[1:]))})" for name in found], 40) or "none"
        raise SpecError(
            f"network '{channels.graph.name}': the tiles cannot end with '{tensor}'; they may with {allowed}: all that "
            "follows must mix the channels of this one map, and all before must be possible in tiles"
        )
    nodes = found[tensor]
    made = [name for node in channels.graph.nodes if node.name in nodes for name in node.outputs]
    atoms = frozenset(atom for name in made for atom in channels.labels(name).tolist()) - {EVERYWHERE}
    return TiledLayers(channels.graph, tensor, nodes, atoms, tuple(shares))


def tile_ends(channels: ChannelMap) -> tuple[str, ...]:
    """The tensors with which tiles may end, in the order of the graph."""
    return tuple(name for name, _ in _cuts(channels))


def _cuts(channels: ChannelMap) -> Iterator[tuple[str, frozenset[str]]]:
    """Each tensor with which tiles may end, and the nodes before it.

    Nothing else that they make is read behind it, nor is an input of the network; none of it is an output.
    """
    graph, consumers = channels.graph, consumers_of(channels.graph)
    before: dict[str, frozenset[str]] = {name: frozenset() for name in graph.inputs}
    answers = {output.tensor for output in graph.outputs}
    for node in graph.nodes:
        sources = [name for name in node.inputs.values() if name not in graph.stored]
        if not _has_tiles(channels, node) or not all(name in before for name in sources):
            continue
        nodes = frozenset({node.name}).union(*(before[name] for name in sources))
        [tensor] = node.outputs
        before[tensor] = nodes
        readers = consumers.get(tensor, [])
        is_shared = EVERYWHERE in channels.labels(tensor)  # such as the image: nothing would have to be sent
        if readers and not is_shared and all(_mixes(channels, reader, tensor) for reader in readers):
            made = {name for other in graph.nodes if other.name in nodes for name in other.outputs}
            others = (*(made - {tensor}), *graph.inputs)
            behind = {each.name for name in others for each in consumers.get(name, ())} - nodes
            cuts = graph.cuts_of(node)
            if not behind and answers.isdisjoint(made) and cuts[2] == cuts[3] == 1:  # else mixtures have other tiles
                yield tensor, nodes


def _has_tiles(channels: ChannelMap, node: GraphNode) -> bool:
    """Whether tiles of a node's output, a map with channels of several devices, can be computed from tiles."""
    [name], cuts = node.outputs[:1], channels.graph.cuts_of(node)
    tensor = channels.graph.tensors[name]
    if len(node.outputs) > 1 or tensor.axes != _MAP or min(tensor.dims[2:]) == 1 or not tensor.can_be_sent:
        return False
    return all(cuts.get(axis) for axis in (2, 3)) and READ_OUT not in channels.labels(name)


def _mixes(channels: ChannelMap, node: GraphNode, tensor: str) -> bool:
    layer = channels.mixing.get(node.name)
    return (
        channels.ways[node.name] is HowComputed.MIXING
        and layer is not None
        and (layer.operand, layer.in_axis) == (tensor, 1)
    )


def _tile_of(dims: Dims, shares: Collection[float], multiples: tuple[int, int] = (1, 1)) -> Layout:
    return Layout(tuple(tile(dims, (2, 3), tuple(shares), multiples)))


def tile_layouts(graph: Graph, nodes: Collection[str], shares: Collection[float]) -> Layouts:
    """Tiles with their rims for these nodes of a separated graph: the tiled layers, and what mixes their end."""
    base = {}
    for node in graph.nodes:
        dims = graph.tensors[node.outputs[0]].dims
        if node.name in nodes:
            cuts = graph.cuts_of(node)
            base[node.name] = _tile_of(dims, shares, (cuts[2], cuts[3]))
        else:
            base[node.name] = Layout.on(0, dims)
    found = fused(graph, base, dict.fromkeys(nodes, 0))
    return {name: found[name] for name in nodes}
