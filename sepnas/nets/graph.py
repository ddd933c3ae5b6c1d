"""Executes a graph in torch: the same function as the network that it was imported from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from sepnas.errors import SpecError
from sepnas.nets.aten import overload, run_calls
from sepnas.nets.batched import BatchedNode, batched_nodes
from sepnas.partition.aten import opaque_call
from sepnas.partition.graph import WEIGHTS_NAME, Graph, GraphNode, load_graph
from sepnas.plan.kinds.kind import AtenCall
from sepnas.spec.files import read_regular, why

MAX_WEIGHTS_BYTES = 16 << 30
Outputs: TypeAlias = Tensor | dict[str, Tensor]


class GraphNetwork(nn.Module):
    """A graph with its weights. ``forward`` takes the graph's inputs ``(B, *shape)`` in order.

    It gives the output, or the outputs by name if there are several. What begins with no axis of samples has those of
    the B samples one after the other along its first axis (:mod:`sepnas.partition.batches`).
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        check_weights(graph, weights)
        self.graph = graph
        self._calls = [calls_of(graph, node) for node in graph.nodes]
        self._weights = {name: f"weight{place}" for place, name in enumerate(graph.weights)}
        for name, attribute in self._weights.items():
            self.register_buffer(attribute, weights[name])
        self._last_use = last_uses(graph)

    @property
    def weights_by_name(self) -> dict[str, Tensor]:
        return {name: getattr(self, attribute) for name, attribute in self._weights.items()}

    def forward(self, *inputs: Tensor) -> Outputs:
        graph = self.graph
        if len(inputs) != len(graph.inputs):
            raise SpecError(f"network '{graph.name}' has {len(graph.inputs)} inputs, got {len(inputs)}")
        values = dict(zip(graph.inputs, inputs, strict=True))
        samples = self._num_samples(values)
        values.update({name: getattr(self, attribute) for name, attribute in self._weights.items()})
        for place, node in enumerate(graph.nodes):
            operands = {role: values[name] for role, name in node.inputs.items()}
            results = (
                run_calls(self._calls[place], operands) if samples == 1 else self._batched[place].run(operands, samples)
            )
            values.update(zip(node.outputs, results, strict=False))
            for name in self._last_use.get(place, ()):
                values.pop(name, None)
        found = {output.name: values[output.tensor] for output in graph.outputs}
        return found if len(found) > 1 else next(iter(found.values()))

    def _num_samples(self, inputs: Mapping[str, Tensor]) -> int:
        """The number of samples; :class:`SpecError` for inputs of other shapes, or of different numbers of samples."""
        dims = {name: self.graph.tensors[name].dims for name in inputs}
        first = next(iter(inputs.values()))
        samples = max(1, first.shape[0]) if first.dim() and all(each[:1] == (1,) for each in dims.values()) else 1
        for name, x in inputs.items():
            wanted = (samples, *dims[name][1:]) if samples > 1 else dims[name]
            if tuple(x.shape) != wanted:
                raise SpecError(f"input '{name}' must have shape {wanted}, got {tuple(x.shape)}")
        return samples

    @cached_property
    def _batched(self) -> list[BatchedNode]:
        """How each node computes a batch."""
        return batched_nodes(self.graph)


def calls_of(graph: Graph, node: GraphNode) -> tuple[AtenCall, ...]:
    """The calls of a node, for one sample; :class:`SpecError` if it is refused."""
    kind = node.kind
    if kind is None and not _is_function(node):
        raise SpecError(f"node '{node.name}': {node.operator} is no function of tensors, so it is not run")
    calls = kind.calls(graph.use(node)) if kind else (opaque_call(node.operator, node.inputs, node.attributes),)
    for call in calls:
        overload(call.overload)  # so that an unknown one is refused at once
    return calls


def _is_function(node: GraphNode) -> bool:
    """Whether an opaque operator only computes: those without tensors may read files, others may write in place."""
    name, _, which = node.operator.removeprefix("aten.").partition(".")
    return bool(node.inputs) and not name.endswith("_") and "out" not in which.split("_")


def last_uses(graph: Graph) -> dict[int, list[str]]:
    """The tensors that are not needed after each node, by the node's place."""
    kept = {output.tensor for output in graph.outputs}
    last = {name: place for place, node in enumerate(graph.nodes) for name in (*node.inputs.values(), *node.outputs)}
    found: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in kept:
            found.setdefault(place, []).append(name)
    return found


def check_weights(graph: Graph, weights: Mapping[str, Tensor], where: str = "weights") -> None:
    """Raise :class:`SpecError` unless these are the weights of the graph: names, shapes and data types."""
    for name in graph.weights:
        wanted = graph.tensors[name]
        if name not in weights:
            raise SpecError(f"{where}: tensor '{name}' of network '{graph.name}' is missing")
        found = weights[name]
        if tuple(found.shape) != wanted.dims or str(found.dtype).removeprefix("torch.") != wanted.dtype:
            raise SpecError(
                f"{where}: tensor '{name}' must be {wanted.dtype} {wanted.dims} for network '{graph.name}', got "
                f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
            )


def load_graph_network(folder: Path) -> GraphNetwork:
    """The network of a folder that `sepnas import` wrote, in evaluation.

    Raises :class:`SpecError` if a file is missing or damaged, or the weights are another network's.
    """
    graph, path = load_graph(folder), folder / WEIGHTS_NAME
    try:
        weights = load(read_regular(path, MAX_WEIGHTS_BYTES))
    except FileNotFoundError:
        raise SpecError(
            f"{path}: no such file; it belongs beside {folder / 'graph.json'}, where `sepnas import` writes it, and "
            "`sepnas train` once an epoch is finished"
        ) from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {why(error, path)}") from None
    except (SafetensorError, ValueError) as error:
        raise SpecError(f"{path}: damaged, or no safetensors file: {error}") from None
    check_weights(graph, weights, str(path))
    with torch.no_grad():
        return GraphNetwork(graph, weights).eval()
