"""The segments of a traced network as torch modules: their graphs, with the regions of weights that they need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sepnas.nets.batched import BatchedNode, batched_node
from sepnas.plan.kinds.kind import Dims
from sepnas.plan.plan import Segment
from sepnas.plan.segment_node import SegmentNode


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
        self._prepared: dict[tuple[Dims, ...], list[BatchedNode]] = {}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values: dict[str | int, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        values |= {place: getattr(self, weight_buffer(place)) for place in range(self._num_weights)}
        samples = inputs[0].shape[0] if inputs else 1
        shapes = tuple((1, *map(int, x.shape[1:])) for x in inputs)
        if shapes not in self._prepared:
            self._prepared[shapes] = self._batched(shapes)
        for node, batched in zip(self._nodes, self._prepared[shapes], strict=True):
            results = batched.run({role: values[name] for role, name in node.inputs.items()}, samples)
            values.update(zip(node.outputs, results, strict=False))
        found = tuple(values[name] for name in self._outputs)
        return found if len(found) > 1 else found[0]

    def _batched(self, shapes: tuple[Dims, ...]) -> list[BatchedNode]:
        """How each node computes a batch, for inputs of these sizes."""
        dims: dict[str | int, Dims] = dict(zip(self._inputs, shapes, strict=True))
        dims |= {place: tuple(getattr(self, weight_buffer(place)).shape) for place in range(self._num_weights)}
        found = []
        for node in self._nodes:
            found.append(_batched_node(node, dims))
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


def _batched_node(node: SegmentNode, dims: Mapping[str | int, Dims]) -> BatchedNode:
    return batched_node(
        node.layer,
        node.operator,
        node.attributes,
        {role: dims[name] for role, name in node.inputs.items()},
        node.shapes,
        frozenset(role for role, name in node.inputs.items() if isinstance(name, int)),
    )
