"""The segments of a traced network as torch modules: their graphs, with the regions of weights that they need."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sepnas.nets.aten import run_calls
from sepnas.partition.aten import opaque_call
from sepnas.plan.kinds.kind import AtenCall, Dims, GraphOperator, OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.plan import Segment
from sepnas.plan.segment_node import SegmentNode

_SIZES = {"reshape.default": "shape", "expand.default": "size"}
"""The calls that are given the sizes of their result, and the argument that has them."""

JOINING = frozenset(("cat", "stack"))
"""Operators that do not broadcast: a weight beside tensors is repeated for each sample, such as a class token."""


class SegmentModule(nn.Module):
    """A segment's graph. ``forward`` takes its inputs ``(B, *shape)`` in order; it gives one tensor or a tuple.

    ``tensor`` gives each of the network's tensors by name; weight ``i`` of the segment is the buffer ``w<i>``.
    """

    def __init__(self, segment: Segment, tensor: Callable[[str], Tensor]) -> None:
        super().__init__()
        self._nodes, self._inputs, self._outputs = segment.nodes, segment.inputs, segment.outputs
        self._num_weights = len(segment.weights)
        for place, weight in enumerate(segment.weights):
            ranges = tuple(slice(start, stop) for start, stop in weight.region.ranges)
            self.register_buffer(weight_buffer(place), tensor(weight.name)[ranges])
        self._text = structure(segment)
        self._calls: dict[tuple[Dims, ...], list[tuple[AtenCall, ...]]] = {}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values: dict[str | int, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        values |= {place: getattr(self, weight_buffer(place)) for place in range(self._num_weights)}
        shapes = tuple((1, *map(int, x.shape[1:])) for x in inputs)
        if shapes not in self._calls:
            self._calls[shapes] = self._prepared(shapes)
        for node, calls in zip(self._nodes, self._calls[shapes], strict=True):
            operands = {role: values[name] for role, name in node.inputs.items()}
            if node.operator in JOINING:
                operands = for_each_sample(operands, [role for role, name in node.inputs.items() if type(name) is int])
            results = run_calls(calls, operands)
            values.update(zip(node.outputs, results, strict=False))
        found = tuple(values[name] for name in self._outputs)
        return found if len(found) > 1 else found[0]

    def _prepared(self, shapes: tuple[Dims, ...]) -> list[tuple[AtenCall, ...]]:
        """The calls of each node, for inputs of these sizes."""
        dims: dict[str | int, Dims] = dict(zip(self._inputs, shapes, strict=True))
        dims |= {place: tuple(getattr(self, weight_buffer(place)).shape) for place in range(self._num_weights)}
        found = []
        for node in self._nodes:
            found.append(_calls(node, dims))
            dims.update(zip(node.outputs, node.shapes, strict=True))
        return found

    def extra_repr(self) -> str:
        """Its structure: graphs of equal structure, with weights of equal sizes, are the same function of both."""
        return self._text


def weight_buffer(place: int) -> str:
    """The name of the buffer that holds a weight of a segment, given its place."""
    return f"w{place}"


def structure(segment: Segment) -> str:
    """All that a segment's graph depends on but the names of its layers and weights."""
    nodes = [[node.operator, dict(node.inputs), node.outputs, dict(node.attributes)] for node in segment.nodes]
    return json.dumps([segment.inputs, segment.outputs, nodes])


def _calls(node: SegmentNode, dims: Mapping[str | int, Dims]) -> tuple[AtenCall, ...]:
    kind = GRAPH_OPERATORS.get(node.operator)
    if kind is None:
        return (opaque_call(node.operator, {role: str(name) for role, name in node.inputs.items()}, node.attributes),)
    return calls_for_any_batch(kind, OperatorUse(node.attributes, {r: dims[name] for r, name in node.inputs.items()}))


def calls_for_any_batch(kind: GraphOperator, use: OperatorUse) -> tuple[AtenCall, ...]:
    """The calls of an operator that is used on one sample, for any number of samples."""
    first = next(iter(use.inputs.values()), ())
    return tuple(_for_any_batch(call, first) for call in kind.calls(use))


def for_each_sample(operands: Mapping[str, Tensor], weights: Collection[str]) -> dict[str, Tensor]:
    """Operands by role, with those that are weights repeated for each sample of the others."""
    batch = next((x.shape[0] for role, x in operands.items() if role not in weights), 1)
    return {role: x.expand(batch, *x.shape[1:]) if role in weights else x for role, x in operands.items()}


def _for_any_batch(call: AtenCall, first: Dims) -> AtenCall:
    """A call that is given sizes, with those for one sample replaced by those for any number of them."""
    name = _SIZES.get(call.overload)
    sizes: list[Any] = list(call.arguments[name]) if name else []
    if name is None or first[:1] != (1,) or sizes[:1] != [1]:
        return call
    return replace(call, arguments={**call.arguments, name: [-1, *sizes[1:]]})
