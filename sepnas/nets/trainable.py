"""A graph that is trained: its weights are parameters, its batch norms keep statistics, its inputs are batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import SpecError
from sepnas.nets.batched import batched_nodes
from sepnas.nets.crossings import Crossings, crossings_of
from sepnas.nets.depthwise import depthwise, in_bf16_on_cpu, slow_gradients
from sepnas.nets.graph import Outputs, calls_of, check_weights, last_uses, load_graph_network
from sepnas.partition.graph import Graph, GraphNode
from sepnas.plan.document import load_plan
from sepnas.separation.document import PLAN_NAME, is_separated

BATCH_NORM = "batch_norm"
STATISTICS = ("running_mean", "running_var")
"""The operands of a batch norm that training measures instead of learning."""
MOMENTUM = 0.1
"""Share of a new batch in the running statistics, as in torch."""
_Place: TypeAlias = tuple[nn.Module, str]


class TrainableGraph(nn.Module):
    """A graph with its weights, for any number of samples; ``forward`` takes the graph's inputs ``(B, ...)`` in order.

    The :func:`trained_weights` are parameters, the others buffers, under the names that the graph has for them. Batch
    norms use the statistics of the batch in training, and the running ones in evaluation.

    ``crossings`` are the operands that another device sends, which are rounded as by their wire format; gradients pass
    straight through.

    Raises :class:`SpecError` if the weights do not fit the graph.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Tensor], crossings: Crossings | None = None) -> None:
        super().__init__()
        check_weights(graph, weights)
        self.graph, self.crossings = graph, crossings or {}
        self._places: dict[str, _Place] = {}
        trained = trained_weights(graph)
        for name in graph.weights:
            self._store(name, weights[name].detach().clone(), name in trained)
        calls_of_nodes = [calls_of(graph, node) for node in graph.nodes]  # refuses what is not run
        self._slow = {
            place: settings
            for place, (node, calls) in enumerate(zip(graph.nodes, calls_of_nodes, strict=True))
            if node.operator == "conv" and len(calls) == 1
            if (settings := slow_gradients(calls[0], graph.tensors[node.inputs["weight"]].dims))
        }
        self._batched = batched_nodes(graph)
        self._rounded = [[role for role in node.inputs if (node.name, role) in self.crossings] for node in graph.nodes]
        self._last_use = last_uses(graph)

    def _store(self, name: str, value: Tensor, trained: bool) -> None:
        """Keep a weight in a tree of modules that gives it the graph's name in the state, whatever its parts are."""
        *path, leaf = name.split(".")
        module: nn.Module = self
        for part in path:
            module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        if trained:
            module._parameters[leaf] = nn.Parameter(value)
        else:
            module._buffers[leaf] = value
        self._places[name] = module, leaf

    def weight(self, name: str) -> Tensor:
        """A weight as it is computed with."""
        module, leaf = self._places[name]
        found = module._parameters.get(leaf)
        value: Tensor = module._buffers[leaf] if found is None else found  # type: ignore[assignment]
        return value

    @property
    def weights_by_name(self) -> dict[str, Tensor]:
        """All weights, detached, as :class:`sepnas.nets.graph.GraphNetwork` takes them."""
        return {name: self.weight(name).detach() for name in self.graph.weights}

    def depths(self) -> dict[str, float]:
        """How deep each parameter is, from 0 in the first layer to 1 in the last: by the layers with MACs before it."""
        reached: dict[str, int] = {}
        found: dict[str, int] = {}
        for node in self.graph.nodes:
            stored = self.graph.weights_of(node)
            before = max((reached.get(name, 0) for role, name in node.inputs.items() if role not in stored), default=0)
            depth = before + (self.graph.macs_of(node) > 0 and bool(stored))
            reached.update(dict.fromkeys(node.outputs, depth))
            for name in stored.values():
                found[name] = min(depth, found.get(name, depth))
        first, last = min(found.values(), default=0), max(found.values(), default=0)
        return {name: (found[name] - first) / max(1, last - first) for name, _ in self.named_parameters()}

    def forward(self, *inputs: Tensor) -> Outputs:
        found = self.tensors(inputs, [output.tensor for output in self.graph.outputs])
        named = {output.name: found[output.tensor] for output in self.graph.outputs}
        return named if len(named) > 1 else next(iter(named.values()))

    def tensors(self, inputs: tuple[Tensor, ...], names: Collection[str]) -> dict[str, Tensor]:
        """The tensors of these names, for inputs ``(B, ...)``; what only others need is not computed."""
        values, samples = self.started(inputs), inputs[0].shape[0]
        for place in range(self._last_place(names) + 1):
            self.compute(place, values, samples, names)
        return {name: values[name] for name in names}

    def operands(self, place: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the node at this place takes by role: weights, and tensors of ``values``, rounded where they cross."""
        node = self.graph.nodes[place]
        stored = self.graph.weights_of(node)
        found = {role: self.weight(name) if role in stored else values[name] for role, name in node.inputs.items()}
        for role in self._rounded[place]:
            found[role] = self.crossings[node.name, role].of(found[role])
        return found

    def compute(self, place: int, values: dict[str, Tensor], samples: int, kept: Collection[str] = ()) -> None:
        """Compute the node at this place for a batch of ``samples``, and drop what no other needs, but for ``kept``."""
        node, operands = self.graph.nodes[place], self.operands(place, values)
        slow = self._slow.get(place)
        if slow is not None and in_bf16_on_cpu(operands["input"]):
            values[node.outputs[0]] = depthwise(operands["input"], operands["weight"], operands.get("bias"), slow)
        elif _is_norm(node):
            values[node.outputs[0]] = self._normalised(node, operands)
        else:
            values.update(zip(node.outputs, self._batched[place].run(operands, samples), strict=False))
        for name in self._last_use.get(place, ()):
            if name not in kept:
                values.pop(name, None)

    def _last_place(self, names: Collection[str]) -> int:
        wanted = set(names)
        return max((p for p, node in enumerate(self.graph.nodes) if wanted & set(node.outputs)), default=-1)

    def started(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The tensors before any node is computed: the inputs ``(B, ...)`` by name, checked."""
        graph = self.graph
        if len(inputs) != len(graph.inputs):
            raise SpecError(f"network '{graph.name}' has {len(graph.inputs)} inputs, got {len(inputs)}")
        for name, x in zip(graph.inputs, inputs, strict=True):
            if tuple(x.shape[1:]) != graph.tensors[name].dims[1:]:
                wanted = ("B", *graph.tensors[name].dims[1:])
                raise SpecError(f"input '{name}' must have shape ({', '.join(map(str, wanted))}), got {tuple(x.shape)}")
        return dict(zip(graph.inputs, inputs, strict=True))

    def _normalised(self, node: GraphNode, operands: Mapping[str, Tensor]) -> Tensor:
        return functional.batch_norm(
            operands["input"],
            operands["running_mean"],
            operands["running_var"],
            operands.get("weight"),
            operands.get("bias"),
            self.training,
            MOMENTUM,
            self.graph.use(node).get("eps", 1e-5),
        )


def trained_weights(graph: Graph) -> frozenset[str]:
    """The weights that training changes: floating, made of parameters, and no running statistics.

    Where a graph does not say what is made of parameters, what was computed in advance is not changed.
    """
    measured = {node.inputs[role] for node in norms_of(graph) for role in STATISTICS}
    fixed = {*(graph.computed if graph.buffers is None else graph.buffers), *measured}
    return frozenset(
        name
        for name in graph.weights
        if graph.tensors[name].dtype.startswith(("float", "bfloat")) and name not in fixed
    )


def load_trainable(folder: Path) -> TrainableGraph:
    """The network of a folder that `sepnas import` or a training wrote, in evaluation.

    The messages of a separated one are rounded as its plan says. Raises :class:`SpecError` if a file is missing or
    damaged, or the weights are another network's.
    """
    found = load_graph_network(folder)
    return TrainableGraph(found.graph, found.weights_by_name, folder_crossings(found.graph, folder)).eval()


def folder_crossings(graph: Graph, folder: Path) -> Crossings:
    """The operands that cross between devices, by the plan of a separated network's folder; none for another's."""
    if not is_separated(folder):
        return {}
    return crossings_of(graph, load_plan(folder / PLAN_NAME))


def norms_of(graph: Graph) -> list[GraphNode]:
    """The batch norms of a graph."""
    return [node for node in graph.nodes if _is_norm(node)]


def _is_norm(node: GraphNode) -> bool:
    return node.operator == BATCH_NORM
