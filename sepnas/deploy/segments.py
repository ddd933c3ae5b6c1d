"""A device's segments as files that hold a graph and no weights, and its weights as one safetensors file.

Engines read different files: a ``.pt2`` is torch's, an ``.onnx`` onnxruntime's (``onnx_graphs.py``).

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

from sepnas.deploy.onnx_graphs import check_onnx, onnx_graph
from sepnas.deployment.manifest import ExactEngine
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


@dataclass
class SegmentExporter:
    """Exports segments for ``engines``, each different graph once."""

    engines: tuple[ExactEngine, ...] = ("torch",)
    _known: ClassVar[dict[object, dict[ExactEngine, bytes]]] = {}
    """All that this process has exported: a graph takes a second, and networks of a family share most."""

    def export(self, module: nn.Module, shape: Shape) -> dict[ExactEngine, bytes]:
        """The file of a segment that takes one ``(B, *shape)`` tensor, for each engine; any batch size."""
        weights = segment_weights(module)
        key = (self.engines, repr(module), shape, tuple((name, tuple(w.shape), w.dtype) for name, w in weights.items()))
        if key not in self._known:
            self._known[key] = _export(module, weights, shape, self.engines)
        return self._known[key]


@torch.no_grad()
def _export(
    module: nn.Module, weights: dict[str, Tensor], shape: Shape, engines: tuple[ExactEngine, ...]
) -> dict[ExactEngine, bytes]:
    module = module.eval()
    example = torch.randn(2, shape.channels, shape.height, shape.width)
    dynamic = ({0: Dim("batch", min=1, max=MAX_BATCH)}, dict.fromkeys(weights))
    program = torch.export.export(_Function(module), (example, weights), dynamic_shapes=dynamic, strict=False)
    outputs = module(example)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    files: dict[ExactEngine, bytes] = {}
    if "torch" in engines:
        files["torch"] = _torch_file(program, example, weights, outputs)
    if "onnxruntime" in engines:
        files["onnxruntime"] = onnx_graph(program)
        check_onnx(files["onnxruntime"], example, list(weights.values()), outputs)
    return files


def _torch_file(
    program: ExportedProgram, example: Tensor, weights: dict[str, Tensor], expected: tuple[Tensor, ...]
) -> bytes:
    exported = program.graph_module(example, *weights.values())
    if len(exported) != len(expected) or not all(map(torch.equal, exported, expected)):
        raise DeploymentError("a segment does not compute what its layers compute once it is exported")
    _forget_source(program)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _forget_source(program: ExportedProgram) -> None:
    program._example_inputs = None
    for node in program.graph.nodes:
        for key in _SOURCE_KEYS:
            node.meta.pop(key, None)


def weights_file(weights: dict[str, Tensor]) -> bytes:
    """The safetensors file of a device's tensors."""
    return safetensors.torch.save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()})
