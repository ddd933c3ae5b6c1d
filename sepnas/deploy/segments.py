"""Exports a device's segments as graph files without weights, and its weights as one safetensors file.

Engines read different files (:mod:`sepnas.deployment.engines`): a ``.pt2`` is torch's, an ``.onnx`` onnxruntime's.

Each segment is exported as a *function* ``f(inputs, weights)``, so equal layers of different devices have equal graphs
and are exported once. Sample inputs and source locations are omitted: a deployment's ``.pt2`` needs no unpickling and
holds no trace of the exporting machine.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import safetensors.torch
import torch
from torch import Tensor, contiguous_format, nn
from torch.export import Dim, ExportedProgram

from sepnas.deployment.engines.kind import late
from sepnas.deployment.engines.registry import engines as all_engines
from sepnas.errors import DeploymentError
from sepnas.plan.shapes import Shape

MAX_BATCH = 4096
_SOURCE_KEYS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class _Function(nn.Module):
    """``module`` with its weights as a second argument."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module  # bypasses nn.Module: these weights must not become part of the export

    def forward(self, inputs: tuple[Tensor, ...], weights: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        out: Tensor | tuple[Tensor, ...] = torch.func.functional_call(self.__dict__["module"], weights, inputs)
        return out


def segment_weights(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a segment computes with, by their names in it, without training's counters."""
    found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in found.items()
        if not name.endswith("num_batches_tracked")
    }


@dataclass(frozen=True)
class ExportedSegment:
    """A segment from which engines make their graphs: the program takes ``inputs`` and the weights, in order.

    ``inputs`` are examples and ``outputs`` the layers' own results for them, to check a graph; both are by name.
    """

    program: ExportedProgram
    inputs: dict[str, Tensor]
    weights: list[Tensor]
    outputs: dict[str, Tensor]


@dataclass
class SegmentExporter:
    """Exports segments for ``engines``, each distinct graph once."""

    engines: tuple[str, ...] = ("torch",)
    _known: ClassVar[dict[object, dict[str, bytes]]] = {}
    """Cache of this process's exports by engine: a file takes a second, and networks of a family share most graphs."""

    def export(
        self,
        module: nn.Module,
        inputs: Mapping[str, Shape],
        outputs: Sequence[str],
        weights: dict[str, Tensor] | None = None,
    ) -> dict[str, bytes]:
        """The file of a segment for each engine, valid for any batch size.

        Args:
            module: takes one ``(B, *shape)`` tensor for each input, in order; returns a tensor or a tuple of tensors.
            inputs, outputs: their names in the graph, and the shape of each input.
            weights: the module's tensors, in the graph's order; by default in the module's own.

        Raises :class:`DeploymentError` unless ``weights`` are all those of the module: the graph would contain the
        values of the others, and the cache would give it to other devices.
        """
        own = segment_weights(module)
        weights = own if weights is None else weights
        if weights.keys() != own.keys():
            differing = min(weights.keys() ^ own.keys())
            problem = "lacks" if differing in own else "is given, beyond its own,"
            raise DeploymentError(f"a segment with the outputs {', '.join(outputs)} {problem} the weight '{differing}'")
        sizes = tuple((name, tuple(w.shape), w.dtype) for name, w in weights.items())
        known = self._known.setdefault((repr(module), tuple(inputs.items()), tuple(outputs), sizes), {})
        if missing := tuple(name for name in self.engines if name not in known):
            known |= _export(module, weights, inputs, outputs, missing)
        return {name: known[name] for name in self.engines}


@torch.no_grad()
def _export(
    module: nn.Module,
    weights: dict[str, Tensor],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    engines: tuple[str, ...],
) -> dict[str, bytes]:
    module = module.eval()
    examples = tuple(torch.randn(2, *shape.dims) for shape in inputs.values())
    batch = Dim("batch", min=1, max=MAX_BATCH)
    dynamic = (tuple({0: batch} for _ in examples), dict.fromkeys(weights))
    program = torch.export.export(_Function(module), (examples, weights), dynamic_shapes=dynamic, strict=False)
    _forget_checks(program)
    found = module(*examples)
    made = found if isinstance(found, tuple) else (found,)
    if len(made) != len(outputs):
        raise DeploymentError(f"a segment makes {len(made)} tensors, but its outputs are {', '.join(outputs)}")
    exported = ExportedSegment(
        program,
        dict(zip(inputs, examples, strict=True)),
        list(weights.values()),
        dict(zip(outputs, made, strict=True)),
    )
    return {name: late(all_engines()[name].export)(exported) for name in engines}


def _forget_checks(program: ExportedProgram) -> None:
    """Remove the checks of data types, which nothing on a device changes."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()


def torch_file(segment: ExportedSegment) -> bytes:
    """The ``.pt2`` file of a segment."""
    found = segment.program.graph_module(*segment.inputs.values(), *segment.weights)
    if len(found) != len(segment.outputs) or not all(map(torch.equal, found, segment.outputs.values())):
        raise DeploymentError("a segment does not compute what its layers compute once it is exported")
    _forget_source(segment.program)
    file = io.BytesIO()
    torch.export.save(segment.program, file)
    return file.getvalue()


def _forget_source(program: ExportedProgram) -> None:
    program._example_inputs = None
    if hasattr(program, "_guards_code"):  # equal batches of several inputs are checked where they are made
        program._guards_code = []
    for node in program.graph.nodes:
        for key in _SOURCE_KEYS:
            node.meta.pop(key, None)


def weights_of(module: nn.Module, network: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Map tensor ``names`` of ``network`` to their names in ``module``, a part of the network, in order.

    Raises :class:`DeploymentError` for a tensor that the module does not have.
    """
    own = {id(tensor): key for key, tensor in _tensors(module)}
    found = {}
    for name, tensor in _tensors(network):
        if id(tensor) in own:
            found[name] = own[id(tensor)]
    for name in names:
        if name not in found:
            raise DeploymentError(f"the plan takes the weight '{name}', which its layers do not have")
    return {name: found[name] for name in names}


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def weights_file(weights: dict[str, Tensor]) -> bytes:
    """The safetensors file of a device's tensors, of which one may be a part of another."""
    copies = {name: tensor.detach().cpu().clone(memory_format=contiguous_format) for name, tensor in weights.items()}
    return safetensors.torch.save(copies)
