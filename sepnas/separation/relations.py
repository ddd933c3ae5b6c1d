"""How the channels that an operator makes depend on those that it takes, found by asking its kind for regions.

No operator is named here: a kind's halo rule says which region of each operand a block of output channels needs, and
its terms say which operand it sums over with weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sepnas.partition.graph import Graph, GraphNode
from sepnas.plan.kinds.derived import DerivedUse
from sepnas.plan.kinds.kind import along
from sepnas.plan.shapes import Region


@dataclass(frozen=True, slots=True)
class Blocks:
    """Block ``b`` of an operand: channels ``b * step`` to ``b * step + width`` along ``axis``."""

    axis: int
    step: int
    width: int

    def channels(self, block: int) -> range:
        return range(block * self.step, block * self.step + self.width)


@dataclass(frozen=True)
class Relation:
    """An operator that computes blocks of ``width`` channels along ``axis``, each from a block of its operands.

    ``operands`` has the blocks of each operand by role; an operand that is not in it is taken whole by each block.
    """

    axis: int
    width: int
    count: int
    operands: Mapping[str, Blocks]


@dataclass(frozen=True)
class MixingLayer:
    """A convolution or a fully connected layer: each output channel sums over all input channels with weights.

    ``operand`` is its input, summed over along ``in_axis``. ``relation`` says which weights each output channel takes;
    ``weight`` is the role of those that are multiplied, whose input channels lie along ``weight_axis`` (None if there
    is only one).
    """

    node: GraphNode
    operand: str
    in_axis: int
    relation: Relation
    weight: str
    weight_axis: int | None

    @property
    def operand_role(self) -> str:
        [role] = [role for role, name in self.node.inputs.items() if name == self.operand]
        return role

    @property
    def output(self) -> str:
        return self.node.outputs[0]


def relation(graph: Graph, node: GraphNode, axis: int) -> Relation | None:
    """How blocks of channels along ``axis`` of a node's output depend on the operands; None if in no regular way."""
    derived, dims = graph.derived(node), graph.tensors[node.outputs[0]].dims
    if derived is None or axis not in derived.cuts:
        return None
    width = derived.cuts[axis]
    count, rest = divmod(dims[axis], width)
    if rest or count < 2:
        return None
    probes = {block: _needs(derived, dims, axis, block, width) for block in {0, 1, count - 1}}
    operands = {}
    for role, first in probes[0].items():
        if any(role not in probe for probe in probes.values()):
            return None
        found = _blocks(first, {block: probe[role] for block, probe in probes.items()})
        if found is None:
            return None
        if found.step:
            operands[role] = found
    return Relation(axis, width, count, operands) if all(role in probes[0] for role in node.inputs) else None


def _needs(derived: DerivedUse, dims: tuple[int, ...], axis: int, block: int, width: int) -> Mapping[str, Region]:
    region = along(dims, axis, (block * width, (block + 1) * width))
    return derived.kind.restrict(derived.use, region).inputs


def _blocks(first: Region, probes: Mapping[int, Region]) -> Blocks | None:
    """The blocks of an operand that these regions are; of step 0 if each is the same, None if in no regular way."""
    axes = [axis for axis, span in enumerate(first.ranges) if any(p.ranges[axis] != span for p in probes.values())]
    if not axes:
        return Blocks(0, 0, 0)
    if len(axes) > 1 or first.ranges[axes[0]][0] != 0:
        return None
    [axis], width = axes, first.dims[axes[0]]
    step = probes[1].ranges[axis][0]
    regular = all(p.ranges[axis] == (block * step, block * step + width) for block, p in probes.items())
    return Blocks(axis, step, width) if regular and step >= width else None


def mixing_layer(graph: Graph, node: GraphNode) -> MixingLayer | None:
    """The node as a layer that mixes channels with stored weights; None if it is none."""
    derived = graph.derived(node)
    terms = derived.terms if derived is not None and len(node.outputs) == 1 else None
    if derived is None or terms is None or not derived.macs or len(terms.axes) != 1 or terms.merge != "sum":
        return None
    if [role for role, name in node.inputs.items() if name not in graph.stored] != [terms.role]:
        return None
    found = [(role, axis) for role, axis in _summed(derived).items() if role != terms.role]
    for axis in sorted(derived.cuts):
        made = relation(graph, node, axis) if axis else None
        if made is None or terms.role in made.operands or made.width != 1:
            continue
        [weight] = [role for role, _ in found] or list(made.operands)[:1]
        if weight in made.operands:
            return MixingLayer(node, node.inputs[terms.role], terms.axes[0], made, weight, dict(found).get(weight))
    return None


def _summed(derived: DerivedUse) -> dict[str, int]:
    """The axis along which each operand has the terms; none if there is one term only."""
    terms = derived.terms
    assert terms is not None
    if terms.count < 2:
        return {}
    one, other = (derived.kind.partial(derived.use, Region((span,))).inputs for span in ((0, 1), (1, 2)))
    found = {}
    for role in one.keys() & other.keys():
        differing = [a for a, (x, y) in enumerate(zip(one[role].ranges, other[role].ranges, strict=True)) if x != y]
        if len(differing) == 1:
            found[role] = differing[0]
    return found
