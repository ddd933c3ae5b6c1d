"""A device's segments as files that hold a graph and no weights, and its weights as one safetensors file.

Engines read different files (:mod:`sepnas.deployment.engines`): a ``.pt2`` is torch's, an ``.onnx`` onnxruntime's.

Each segment is exported as a *function* ``f(x, weights)``, so equal layers of different devices have equal
graphs: they are exported once. Sample inputs and source locations are left out: a ``.pt2`` of a deployment
holds nothing that would have to be unpickled and nothing of the machine on which it was made.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sepnas.deployment.engines.kind import late
from sepnas.deployment.engines.registry import engines as all_engines
from sepnas.errors import DeploymentError
from sepnas.plan.steps import Shape

MAX_BATCH = 4096
_SOURCE_KEYS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class _Function(nn.Module):
    """``module`` with its weights as a second argument."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module  # past nn.Module: these weights must not become part of the export

    def forward(self, x_BCHW: Tensor, weights: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        out: Tensor | tuple[Tensor, ...] = torch.func.functional_call(self.__dict__["module"], weights, (x_BCHW,))
        return out


def segment_weights(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a segment computes with, by their names in it; counters of training are left out."""
    found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in found.items()
        if not name.endswith("num_batches_tracked")
    }


@dataclass(frozen=True)
class ExportedSegment:
    """A segment as engines make their graphs from it: the program takes ``example`` and the weights, in order.

    ``outputs`` are what the layers themselves give for the example, to check a graph by.
    """

    program: ExportedProgram
    example: Tensor
    weights: list[Tensor]
    outputs: tuple[Tensor, ...]


@dataclass
class SegmentExporter:
    """Exports segments for ``engines``, each different graph once."""

    engines: tuple[str, ...] = ("torch",)
    _known: ClassVar[dict[object, dict[str, bytes]]] = {}
    """All that this process has exported: a graph takes a second, and networks of a family share most."""

    def export(self, module: nn.Module, shape: Shape) -> dict[str, bytes]:
        """The file of a segment that takes one ``(B, *shape)`` tensor, for each engine; any batch size."""
        weights = segment_weights(module)
        key = (self.engines, repr(module), shape, tuple((name, tuple(w.shape), w.dtype) for name, w in weights.items()))
        if key not in self._known:
            self._known[key] = _export(module, weights, shape, self.engines)
        return self._known[key]


@torch.no_grad()
def _export(module: nn.Module, weights: dict[str, Tensor], shape: Shape, engines: tuple[str, ...]) -> dict[str, bytes]:
    module = module.eval()
    example = torch.randn(2, shape.channels, shape.height, shape.width)
    dynamic = ({0: Dim("batch", min=1, max=MAX_BATCH)}, dict.fromkeys(weights))
    program = torch.export.export(_Function(module), (example, weights), dynamic_shapes=dynamic, strict=False)
    outputs = module(example)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    exported = ExportedSegment(program, example, list(weights.values()), outputs)
    return {name: late(all_engines()[name].export)(exported) for name in engines}


def torch_file(segment: ExportedSegment) -> bytes:
    """The ``.pt2`` file of a segment."""
    found = segment.program.graph_module(segment.example, *segment.weights)
    if len(found) != len(segment.outputs) or not all(map(torch.equal, found, segment.outputs)):
        raise DeploymentError("a segment does not compute what its layers compute once it is exported")
    _forget_source(segment.program)
    file = io.BytesIO()
    torch.export.save(segment.program, file)
    return file.getvalue()


def _forget_source(program: ExportedProgram) -> None:
    program._example_inputs = None
    for node in program.graph.nodes:
        for key in _SOURCE_KEYS:
            node.meta.pop(key, None)


def weights_file(weights: dict[str, Tensor]) -> bytes:
    """The safetensors file of a device's tensors."""
    return safetensors.torch.save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()})
