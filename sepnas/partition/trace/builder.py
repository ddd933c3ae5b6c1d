"""Builds a graph from the nodes of an exported program, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree

from sepnas.errors import ImportFailedError
from sepnas.partition.aten import AtenNode, Translated, translate
from sepnas.partition.axes import input_axes, weight_axes, with_spares
from sepnas.partition.graph import Graph, GraphNode, GraphOutput, GraphTensor, NetworkTraits
from sepnas.partition.samples import with_sample_axes
from sepnas.partition.trace.constant_places import Run, runs_of_tables
from sepnas.partition.trace.refusals import DYNAMIC_SHAPES, PLAIN_NUMBERS, place_in
from sepnas.partition.trace.values import (
    arguments_of,
    dtype_name,
    module_of,
    name_of,
    output_name,
    uses_first_only,
    where_in,
)
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.kinds.registry import BY_OVERLOAD, GRAPH_OPERATORS
from sepnas.spec.document import short

MAX_CONSTANT_VALUES = 1 << 26
"""Larger results that do not depend on the input are computed anew for each sample."""
_UNBIND, _INDEX, _CAT = "unbind.int", "index.Tensor", "cat.default"
SPLITS = frozenset(("split.Tensor", "split_with_sizes.default", "chunk.default", "tensor_split.sections", _UNBIND))
"""Operators whose results become slices, or selections, of their own."""
_SHAPED = frozenset(
    f"{name}.default" for name in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
)
"""Operators whose result depends on the shape of their operand, and not on its values."""
_CHECKS = ("_assert", "sym_constrain", "_guards")


class GraphBuilder:
    """Takes the nodes of a functional program in order.

    What does not depend on the input is computed in advance, unless the weights have no values (torch's ``meta``).
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.nodes: list[GraphNode] = []
        self.tensors: dict[str, GraphTensor] = {}
        self.inputs: list[str] = []
        self.constants: dict[str, Tensor] = {}
        """Values that do not depend on the input, by name."""
        self.computed: list[str] = []
        """The constants that were computed here."""
        self._parameters: dict[str, frozenset[str]] = {}
        """The module's parameters of which each constant is made."""
        self._names: dict[str, str] = {}
        """The tensor that each node of the program is."""
        self._parts: dict[str, list[str]] = {}
        """The tensors that each node with several results is."""

    def add_all(self) -> None:
        """Translate the whole program; :class:`ImportFailedError` names what a graph cannot express."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._add_placeholder(node)
            elif node.op == "call_function":
                self._add_call(node)
            elif node.op != "output":
                raise ImportFailedError(f"holds '{node.op} {node.target}', which is no operator")

    def graph(self, *, name: str, source: str, traits: NetworkTraits) -> Graph:
        """The graph of what the outputs need, with an axis of samples in each tensor that can have one."""
        ends = [*self._outputs()]
        nodes, tensors, renamed = with_sample_axes(
            self.nodes, self.tensors, self.constants, [end.tensor for end in ends]
        )
        outputs = tuple(GraphOutput(name=end.name, tensor=renamed.get(end.tensor, end.tensor)) for end in ends)
        needed = {output.tensor for output in outputs}
        kept = []
        for node in reversed(nodes):
            if needed & set(node.outputs):
                kept.append(node)
                needed |= {*node.inputs.values(), *node.outputs}
        needed |= set(self.inputs)
        weights = tuple(each for each in self.constants if each in needed)
        return Graph(
            name=name, source=source, traits=traits, inputs=tuple(self.inputs), outputs=outputs,
            nodes=tuple(reversed(kept)), weights=weights,
            tensors={each: tensor for each, tensor in tensors.items() if each in needed},
            computed=tuple(each for each in self.computed if each in needed),
            buffers=tuple(each for each in weights if not self._parameters[each]),
            num_parameters=self._count_parameters(weights),
        )  # fmt: skip

    def _count_parameters(self, weights: Sequence[str]) -> int:
        """The numbers in those parameters of the module of which these weights are made."""
        used = frozenset[str]().union(*(self._parameters[name] for name in weights))
        return sum(self.program.state_dict[name].numel() for name in used)

    def stored_weights(self) -> dict[str, Tensor]:
        """The weights and constants that the graph needs."""
        needed = {name for node in self.nodes for name in node.inputs.values()}
        needed |= {output.tensor for output in self._outputs()}
        return {name: x for name, x in self.constants.items() if name in needed}

    def _add_placeholder(self, node: fx.Node) -> None:
        [spec] = [each for each in self.program.graph_signature.input_specs if each.arg.name == node.name]
        value = node.meta["val"]
        if spec.kind == InputKind.USER_INPUT:
            if not isinstance(value, Tensor):
                raise ImportFailedError(f"input '{node.name}' is {short(value)}, not a tensor")
            if not all(isinstance(size, int) for size in value.shape):
                raise ImportFailedError(
                    f"input '{node.name}' has the dynamic shape {tuple(map(str, value.shape))}; export it without "
                    "dynamic_shapes"
                )
            self._declare(node.name, value, input_axes(value.dim()))
            self._names[node.name] = node.name
            self.inputs.append(node.name)
            return
        if spec.target is None or not isinstance(value, Tensor):
            raise ImportFailedError(f"needs '{node.name}' ({spec.kind.name}), which a graph cannot hold")
        found = self.program.state_dict.get(spec.target)
        if found is None:
            found = self.program.constants[spec.target]
        trained = frozenset((spec.target,) if spec.kind == InputKind.PARAMETER else ())
        self._names[node.name] = self._keep(spec.target, found, trained)

    def _keep(self, name: str, value: Tensor, parameters: frozenset[str]) -> str:
        """Declare a constant, made of these parameters of the module, under a name that no other tensor has.

        One without values is not declared: no node may take it.
        """
        while name in self.tensors or name in self.constants:
            name += "_"
        if value.numel():
            self._declare(name, value, weight_axes(value.dim()))
        self.constants[name] = value.detach()
        self._parameters[name] = parameters
        return name

    def _keep_computed(self, node: fx.Node, name: str, value: Tensor) -> str:
        sources = (self._names[each.name] for each in node.all_input_nodes)
        self.computed.append(
            self._keep(name, value, frozenset[str]().union(*(self._parameters.get(each, ()) for each in sources)))
        )
        return self.computed[-1]

    def _declare(self, name: str, value: Tensor, axes: str) -> None:
        dims = tuple(value.shape)
        if 0 in dims:
            raise ImportFailedError(f"tensor '{name}' of shape {dims} holds no value")
        self.tensors[name] = GraphTensor(axes=axes, dims=dims, dtype=dtype_name(value.dtype))

    def _add_call(self, node: fx.Node) -> None:
        target = node.target
        if getattr(target, "__name__", "") == "getitem":
            self._add_item(node)
            return
        if not isinstance(target, torch._ops.OpOverload):
            raise ImportFailedError(f"uses '{name_of(target)}'{where_in(node)}, which is no operator of a graph")
        if target.namespace != "aten":
            raise ImportFailedError(f"uses operator {target}{where_in(node)}, which is none of torch's own")
        name = str(target).removeprefix("aten.")
        if name.startswith(_CHECKS):
            return
        if not self._depends_on_input(node) and self._computed(node, target):
            return
        values = node.meta.get("val")
        if not all(isinstance(size, int) for x in _pytree.tree_leaves(values) for size in getattr(x, "shape", ())):
            raise ImportFailedError(DYNAMIC_SHAPES.at(place_in(node.meta.get("stack_trace"))))
        self._add_results(node, name, values)

    def _add_results(self, node: fx.Node, name: str, values: Any) -> None:
        """Add an operator by the tensors that it makes."""
        if isinstance(values, Tensor) and not values.numel():  # whatever the input, it holds nothing
            nothing = torch.empty(tuple(values.shape), dtype=values.dtype)
            self._names[node.name] = self._keep(node.name, nothing, frozenset())
        elif isinstance(values, Tensor):
            self._add_node(node, name, [values])
        elif name in SPLITS:
            self._add_pieces(node, name, list(values or ()))
        elif isinstance(values, tuple | list) and all(isinstance(each, Tensor | None) for each in values):
            self._add_node(node, name, [each for each in values if each is not None])
        else:
            raise ImportFailedError(PLAIN_NUMBERS.at(place_in(node.meta.get("stack_trace"))))

    def _depends_on_input(self, node: fx.Node) -> bool:
        if str(node.target).removeprefix("aten.") in _SHAPED:
            return False
        names = [self._names.get(each.name, "") for each in node.all_input_nodes]
        return not all(name in self.constants for name in names)

    def _computed(self, node: fx.Node, target: Any) -> bool:
        """Compute a node without inputs now; False if its value is not known, is random, or too large to store."""
        values = [self._known(each) for each in node.all_input_nodes]
        made = node.meta.get("val")
        several = made if isinstance(made, tuple | list) else [made]
        if torch.Tag.nondeterministic_seeded in target.tags or any(each.is_meta for each in values):
            return False
        limit = max([MAX_CONSTANT_VALUES, *(each.numel() for each in values)])
        if not all(isinstance(each, Tensor) and each.numel() <= limit for each in several):
            return False
        known = dict(zip(node.all_input_nodes, values, strict=True))
        args, keywords = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        result = target(*args, **keywords)
        if not isinstance(result, Tensor):
            self._parts[node.name] = [
                self._keep_computed(node, f"{node.name}.{place}", x) for place, x in enumerate(result)
            ]
            return True
        same = next((each for each, x in known.items() if x is result), None)
        name = self._names[same.name] if same is not None else self._keep_computed(node, node.name, result)
        self._names[node.name] = name
        return True

    def _known(self, node: fx.Node) -> Tensor:
        """A constant; or a tensor of the same shape, for operators to which the values do not matter."""
        found, value = self.constants.get(self._names[node.name]), node.meta["val"]
        return torch.zeros(tuple(value.shape), dtype=value.dtype) if found is None else found

    def _add_node(self, node: fx.Node, overload: str, values: list[Tensor]) -> None:
        operands, arguments = arguments_of(node, self._names)
        if overload == _CAT:
            joined = [name for name in operands.values() if name in self.tensors]
            operands = {f"tensors.{place}": name for place, name in enumerate(joined)}
        self._check_values(operands)
        if overload == _INDEX and self._add_places(node, values[0]):
            return
        call = AtenNode(
            overload,
            operands,
            {role: self.tensors[name].dims for role, name in operands.items()},
            arguments,
            tuple(tuple(value.shape) for value in values),
            {role: self.tensors[name].dtype for role, name in operands.items()},
            dtype_name(values[0].dtype),
        )
        several = len(values) > 1 and not (overload in BY_OVERLOAD and uses_first_only(node))
        found = translate(call, {name: self.tensors[name].axes for name in operands.values()})
        if several and not found.operator.startswith("aten."):
            found = Translated(f"aten.{overload}", arguments)
        if found.same_as is not None:
            self._names[node.name] = found.same_as
            return
        names = [f"{node.name}.{place}" for place, _ in enumerate(values)] if several else [node.name]
        for name, value in zip(names, values, strict=False):
            self._declare(name, value, found.axes or self._axes_of_opaque(operands, value.dim()))
        self._append(node, found, operands, tuple(names))
        if isinstance(node.meta["val"], Tensor):
            self._names[node.name] = node.name
        else:
            self._parts[node.name] = names

    def _append(self, node: fx.Node, found: Translated, operands: dict[str, str], names: tuple[str, ...]) -> None:
        self.nodes.append(
            GraphNode(
                name=names[0], operator=found.operator, inputs=operands, outputs=names,
                attributes=dict(found.attributes), module=module_of(node),
            )
        )  # fmt: skip

    def _axes_of_opaque(self, operands: dict[str, str], rank: int) -> str:
        ranked = (self.tensors[name].axes for name in operands.values() if len(self.tensors[name].dims) == rank)
        return next(ranked, "") or with_spares("?" * rank)

    def _check_values(self, operands: dict[str, str]) -> None:
        for name in operands.values():
            if name not in self.tensors:
                dims = tuple(self.constants[name].shape)
                raise ImportFailedError(f"tensor '{name}' of shape {dims} holds no value")

    def _add_pieces(self, node: fx.Node, overload: str, values: list[Tensor]) -> None:
        """Each piece of a split becomes a slice of its own, and each of an unbinding a selection."""
        operands, arguments = arguments_of(node, self._names)
        self._check_values(operands)
        source = self.tensors[operands["self"]]
        axis = arguments.get("dim", 0) % len(source.dims)
        names, start = [], 0
        for place, value in enumerate(values):
            if overload == _UNBIND:
                found = Translated("select", {"dim": axis, "index": place})
                axes = source.axes[:axis] + source.axes[axis + 1 :]
            else:
                stop = start + value.shape[axis]
                found = Translated("slice", {"dim": axis, "start": start, "end": stop, "step": 1})
                axes, start = source.axes, stop
            names.append(f"{node.name}.{place}")
            self._declare(names[-1], value, axes)
            self._append(node, found, operands, (names[-1],))
        self._parts[node.name] = names

    def _add_places(self, node: fx.Node, made: Tensor) -> bool:
        """Indexing by known tables as slices, their joining and a reshape; False if it is something else."""
        source, indices = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(indices, list | tuple)
        tables = {
            axis: self.constants.get(self._names[each.name])
            for axis, each in enumerate(indices) if isinstance(each, fx.Node)
        }  # fmt: skip
        known = {axis: table for axis, table in tables.items() if table is not None and not table.is_meta}
        name = self._names[source.name]
        runs = runs_of_tables(known, self.tensors[name].dims) if len(known) == len(tables) else None
        if name in self.constants or runs is None:
            return False
        for axis, own in runs.items():
            pieces = [self._add_slice(node, name, axis, run) for run in own]
            joined = {f"tensors.{place}": piece for place, piece in enumerate(pieces)}
            name = (
                pieces[0] if len(pieces) == 1 else self._add_own(node, f"{node.name}.{axis}", "cat", joined, dim=axis)
            )
        self._add_own(node, node.name, "reshape", {"self": name}, size=tuple(made.shape))
        self._names[node.name] = node.name
        return True

    def _add_slice(self, node: fx.Node, source: str, axis: int, run: Run) -> str:
        name = f"{node.name}.{axis}.{run.start}.{len(self.nodes)}"
        return self._add_own(
            node, name, "slice", {"self": source}, dim=axis, start=run.start, end=run.end, step=run.step
        )

    def _add_own(self, node: fx.Node, name: str, operator: str, operands: dict[str, str], **attributes: Any) -> str:
        """A node of a registered kind that stands for a part of one of the program's nodes; its name."""
        kind = GRAPH_OPERATORS[operator]
        use = OperatorUse(attributes, {role: self.tensors[each].dims for role, each in operands.items()})
        axes = with_spares(kind.axes(use, {role: self.tensors[each].axes for role, each in operands.items()}))
        dtype = next(self.tensors[each].dtype for each in operands.values())
        self.tensors[name] = GraphTensor(axes=axes, dims=kind.output(use), dtype=dtype)
        self._append(node, Translated(operator, attributes), operands, (name,))
        return name

    def _add_item(self, node: fx.Node) -> None:
        source, place = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(place, int)
        self._names[node.name] = self._parts[source.name][place]

    def _outputs(self) -> Iterator[GraphOutput]:
        specs = self.program.graph_signature.output_specs
        names = [each.arg.name for each in specs if each.kind == OutputKind.USER_OUTPUT]
        kept = [each.target for each in specs if each.kind == OutputKind.BUFFER_MUTATION]
        if kept:
            raise ImportFailedError(
                f"changes its own buffer '{kept[0]}' while it computes, which a graph cannot express"
            )
        tree = _pytree.tree_unflatten(names, self.program.call_spec.out_spec) if self.program.call_spec else names
        for place, (path, name) in enumerate(_pytree.tree_flatten_with_path(tree)[0]):
            if name not in self._names:
                raise ImportFailedError(f"output {place} is a number, a text or nothing; all outputs must be tensors")
            yield GraphOutput(name=output_name(_pytree.keystr(path), place, len(names)), tensor=self._names[name])
