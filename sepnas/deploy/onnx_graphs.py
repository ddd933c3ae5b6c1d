"""A segment's graph for onnxruntime: the exported program as ONNX, without its weights.

Weights become initializers with external data; the engine inserts them when it loads the graph, before it optimises.
So convolutions and batch norms are fused as if the weights were in the file, equal layers have equal files, and a
device's weights are stored only in ``weights.safetensors``.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from sepnas.deploy.export_tables import kept_tables
from sepnas.deploy.onnx_plain import plain
from sepnas.deployment.manifest import WEIGHTS_NAME
from sepnas.deployment.onnx_session import open_session, weight_name
from sepnas.errors import DeploymentError
from sepnas.plan.shapes import Shape

if TYPE_CHECKING:
    from sepnas.deploy.segments import ExportedSegment

TOLERANCE = 1e-4
"""Largest allowed error of onnxruntime, relative to the largest value; its order of summation differs."""


def onnx_file(segment: ExportedSegment) -> bytes:
    """The ``.onnx`` file of a segment, checked by one run."""
    graph = onnx_graph(segment.program, tuple(segment.inputs), tuple(segment.outputs))
    check_onnx(graph, segment.inputs, segment.weights, tuple(segment.outputs.values()))
    return graph


def onnx_graph(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The ``.onnx`` file of a segment, with these names of inputs and outputs, and the weights as initializers."""
    with _quiet(), kept_tables():
        exported = torch.onnx.export(plain(program), dynamo=True, optimize=True, verbose=False)
    assert exported is not None
    model: Any = exported.model_proto
    _take_weights_in(model.graph, len(inputs))
    rename(model.graph, inputs, outputs)
    _forget_source(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def with_sizes(graph: bytes, shape: Shape, weights: Sequence[Tensor]) -> bytes:
    """The same graph for an input and weights of other sizes, if its operators do not depend on the sizes."""
    import onnx

    model = onnx.load_model_from_string(graph)
    _, *sizes = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(sizes, shape.dims, strict=True):
        dim.dim_value = size
    places = {weight_name(index): weight for index, weight in enumerate(weights)}
    for tensor in model.graph.initializer:
        if tensor.name in places:
            tensor.dims[:] = places[tensor.name].shape
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def with_weights(graph: bytes, weights: Sequence[Tensor]) -> Any:
    """The graph as an onnx model that includes its weights."""
    import onnx

    model = onnx.load_model_from_string(graph)
    values = {weight_name(index): weight for index, weight in enumerate(weights)}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))
    return model


def check_onnx(
    graph: bytes, examples: Mapping[str, Tensor], weights: Sequence[Tensor], expected: Sequence[Tensor]
) -> None:
    """Run the graph once; raises :class:`DeploymentError` if its outputs differ from ``expected``."""
    session = open_session(graph, [tensor.numpy() for tensor in weights], threads=1)
    outputs = session.run(None, {name: example.numpy() for name, example in examples.items()})
    for found, wanted in zip(outputs, expected, strict=True):
        off = np.abs(found - wanted.numpy()).max(initial=0.0)
        if not off <= TOLERANCE * max(1.0, wanted.abs().max().item()):
            raise DeploymentError(f"a segment computes something else in onnxruntime: it is off by {off:.2g}")


def rename(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename inputs and outputs, and number all tensors between them, so that names are deterministic."""
    names = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    names |= {tensor.name: tensor.name for tensor in graph.initializer}
    ends = {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
        names |= {name: ends.get(name, f"{index}:{place}") for place, name in enumerate(node.output)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]


def _take_weights_in(graph: Any, num_inputs: int) -> None:
    """Turn all inputs after the first ``num_inputs`` into initializers without data."""
    from onnx import TensorProto

    weights = list(graph.input)[num_inputs:]
    names = {weight.name: weight_name(index) for index, weight in enumerate(weights)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for weight in weights:
        kind = weight.type.tensor_type
        tensor = TensorProto(
            name=names[weight.name],
            data_type=kind.elem_type,
            dims=[dim.dim_value for dim in kind.shape.dim],
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value=WEIGHTS_NAME)
        graph.initializer.append(tensor)
        graph.input.remove(weight)


def _forget_source(model: Any) -> None:
    """Remove traces of the exporting machine, so that equal graphs give equal files."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and progress output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
