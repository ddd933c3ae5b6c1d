"""Where channels go when a tensor is reshaped or its axes are turned, as between the groups of a ShuffleNet."""

from __future__ import annotations

import numpy as np

from sepnas.partition.graph import Graph, GraphNode
from sepnas.plan.kinds.layout import Permute, Reshape


def moved(graph: Graph, node: GraphNode, ids: np.ndarray) -> np.ndarray | None:
    """The numbers of channels after a reshape or a permutation of axes; None if the node is neither.

    ``ids`` has the rank of the node's operand, and size 1 along axes that are no channels' own; so has the result.
    """
    if not isinstance(node.kind, Reshape | Permute):
        return None
    [operand] = node.inputs.values()
    full = np.broadcast_to(ids, graph.tensors[operand].dims)
    use = graph.use(node)
    if isinstance(node.kind, Reshape):
        return _compressed(full.reshape(graph.tensors[node.outputs[0]].dims))
    return _compressed(full.transpose(use.get("dims")))


def _compressed(ids: np.ndarray) -> np.ndarray:
    """Without repetitions: size 1 along each axis on which nothing depends."""
    for axis in range(ids.ndim):
        first = ids.take([0], axis)
        if (ids == first).all():
            ids = first
    return ids
