"""Pairs (Megatron): a layer split by outputs and the next one by inputs, with no exchange between; attention by heads.

Each device computes some outputs of the first layer of a pair, or the queries, keys and values of some heads, all that
follows for these alone, and a partial sum of the second layer. A pair costs N devices ``4 (N - 1) (V + V')`` bytes in
fp32: the V values of the first layer's input are gathered, and the V' of the second one's output are added by the
devices that keep them. Everything between is split along its first axis that can be, channels or tokens. The MACs are
those of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sepnas.partition.graph import Graph, GraphNode
from sepnas.partition.partial import with_partial_results
from sepnas.partition.parts import Layouts
from sepnas.partition.propagation import consumers_of, fused
from sepnas.partition.regions import Layout, shares_of
from sepnas.partition.schemes.input_channels import spans_of, terms_of
from sepnas.partition.schemes.scheme import Scheme, Shares, dims_of, is_exchanged


def _layouts(graph: Graph, shares: Shares) -> Layouts:
    base = {node.name: _along_first(graph, node, shares) for node in graph.nodes}
    runs = dict[str, str]()
    makers = graph.makers
    for node in graph.nodes:
        inside = _between(graph, node, makers, runs)
        spans = spans_of(graph, node, shares, _multiple_within(graph, node, makers, inside)) if inside else {}
        if len(spans) > 1:
            base[node.name] = Layout(base[node.name].pieces, spans)
            runs |= dict.fromkeys((*inside, node.name), node.name)
    joined = with_partial_results(graph, base)
    return fused(graph, {name: base[name] if name in runs else joined[name] for name in base}, runs)


def _along_first(graph: Graph, node: GraphNode, shares: Shares) -> Layout:
    """Split along the first axis that can be cut for all devices, or else for most."""
    dims, found = dims_of(graph, node), Layout.on(0, dims_of(graph, node))
    if not is_exchanged(graph, node):
        return found
    for axis, multiple in sorted(graph.cuts_of(node).items()):
        split = Layout.split(dims, axis, shares_of(dims[axis], shares, multiple))
        if len(split.devices) > len(found.devices):
            found = split
    return found


def _data(node: GraphNode) -> str:
    return node.inputs.get("input", "")


def _multiple(graph: Graph, node: GraphNode, makers: Mapping[str, GraphNode]) -> int:
    """The multiple to which a cut of a layer's input keeps, such as the width of a head; 0 if it cannot be cut."""
    maker = makers[_data(node)]
    axis = len(graph.tensors[_data(node)].dims) - 1 if node.operator == "linear" else 1
    return graph.cuts_of(maker).get(axis, 0)


def _multiple_within(graph: Graph, node: GraphNode, makers: Mapping[str, GraphNode], inside: tuple[str, ...]) -> int:
    """The multiple to which a cut keeps, so that it does not go through a group of a convolution of the pair."""
    multiple, terms = _multiple(graph, node, makers), terms_of(graph, node)
    for each in graph.nodes:
        if each.name in inside and each.kind is not None and dims_of(graph, each)[1:2] == (terms,):
            multiple = math.lcm(multiple, graph.cuts_of(each).get(1, 1))
    return multiple


def _between(graph: Graph, node: GraphNode, makers: Mapping[str, GraphNode], runs: dict[str, str]) -> tuple[str, ...]:
    """The operators from the first layer of a pair up to the second one, ``node``; none if it is not a second one.

    These are all that its input depends on back to layers with weights, if nothing else uses them, and if no layer
    among them takes what another one makes.
    """
    if terms_of(graph, node) < 2 or _data(node) not in makers:
        return ()
    consumers, answered = consumers_of(graph), {output.tensor for output in graph.outputs}
    stored, inside, left = graph.stored, dict[str, GraphNode](), [_data(node)]
    firsts: list[GraphNode] = []
    while left:
        name = left.pop()
        maker = makers.get(name)
        if maker is None or maker.kind is None or maker.name in runs or name in answered:
            return ()
        if maker.name in inside:
            continue
        inside[maker.name] = maker
        if terms_of(graph, maker) < 2:
            left += [each for each in maker.inputs.values() if each not in stored]
        else:
            firsts.append(maker)
    used = {each.name for maker in inside.values() for name in maker.outputs for each in consumers.get(name, ())}
    inner = {name for maker in inside.values() for name in maker.outputs}
    apart = not any(name in inner for first in firsts for name in first.inputs.values())
    return tuple(inside) if apart and used <= {*inside, node.name} and _multiple(graph, node, makers) else ()


SCHEME = Scheme("pairs", "layers in pairs, by outputs and then by inputs; attention by heads", 7, _layouts)
