"""Executes an operator of a graph for a batch, whose samples lie one after the other along the first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepnas.errors import PlanError
from sepnas.nets.aten import run_calls
from sepnas.partition.aten import opaque_call
from sepnas.partition.batches import JOINING, BatchUse, batch_use
from sepnas.partition.graph import Graph
from sepnas.plan.kinds.kind import AtenCall, Attributes, Dims, OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS


@dataclass(frozen=True)
class BatchedNode:
    """One operator. ``shapes`` are the sizes of what it makes of one sample; ``shared`` the roles of its weights.

    ``batch`` is None if it computes one sample after the other by ``calls``.
    """

    name: str
    operator: str
    dims: Mapping[str, Dims]
    shapes: Sequence[Dims]
    shared: frozenset[str]
    calls: tuple[AtenCall, ...]
    batch: BatchUse | None

    def run(self, operands: Mapping[str, Tensor], samples: int) -> tuple[Tensor, ...]:
        """The results for a batch of so many samples, from operands by role."""
        if self.shared == self.dims.keys():
            return tuple(_times(samples, x) for x in run_calls(self.calls, operands))
        if self.batch is None:
            return self._one_by_one(operands, samples)
        given = self._repeated(operands, samples) if self.operator in JOINING else operands
        views = self.batch.views
        if views is None:
            return run_calls(self.batch.calls, given)
        apart = {role: x.reshape(-1, *views[role]) if role in views else x for role, x in given.items()}
        return self._together(run_calls(self.batch.calls, apart))

    def _together(self, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(x.reshape(-1, *dims[1:]) for x, dims in zip(results, self.shapes, strict=False))

    def _repeated(self, operands: Mapping[str, Tensor], samples: int) -> dict[str, Tensor]:
        """The operands with weights once for each sample."""
        return {role: _times(samples, x) if role in self.shared else x for role, x in operands.items()}

    def _one_by_one(self, operands: Mapping[str, Tensor], samples: int) -> tuple[Tensor, ...]:
        if not isinstance(samples, int):
            raise PlanError(
                f"operator '{self.name}' ({self.operator}) computes one sample after the other, so that its segment "
                "has no graph for any number of samples, which workers need; execute the plan in one process"
            )
        own = {role: x.reshape(-1, *self.dims[role]) for role, x in operands.items() if role not in self.shared}
        each = [
            run_calls(self.calls, {**operands, **{role: x[sample] for role, x in own.items()}})
            for sample in range(samples)
        ]
        return self._together([torch.stack(results) for results in zip(*each, strict=True)])


def _times(samples: int, x: Tensor) -> Tensor:
    if x.shape[:1] == (1,):
        return x.expand(samples, *x.shape[1:])
    return x.expand(samples, *x.shape).reshape(-1, *x.shape[1:])


def batched_node(
    name: str,
    operator: str,
    attributes: Attributes,
    dims: Mapping[str, Dims],
    shapes: Sequence[Dims],
    shared: frozenset[str],
) -> BatchedNode:
    """An operator prepared for batches; ``dims`` are the sizes of its operands by role, those of one sample."""
    kind, use = GRAPH_OPERATORS.get(operator), OperatorUse(attributes, dims)
    calls = kind.calls(use) if kind else (opaque_call(operator, {role: role for role in dims}, attributes),)
    batch = None if shared == dims.keys() else batch_use(operator, use, shared)
    return BatchedNode(name, operator, dims, shapes, shared, calls, batch)


def batched_nodes(graph: Graph) -> list[BatchedNode]:
    """The operators of a graph, prepared for batches."""
    return [
        batched_node(
            node.name,
            node.operator,
            node.attributes,
            graph.use(node).inputs,
            [graph.tensors[name].dims for name in node.outputs],
            frozenset(graph.weights_of(node)),
        )
        for node in graph.nodes
    ]
