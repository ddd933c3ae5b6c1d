"""Quantises segments to int8 for onnxruntime, from the same weights.

Static quantisation (arXiv 1712.05877) with onnxruntime's tools: convolutions, additions and activations in 8 bits, with
one scale for each output channel of a weight and one for each activation, measured on calibration images. The
classifier stays in fp32: it is cheap, and its error would directly affect the answer. Messages are quantised by their
wire format, not by the engine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sepnas.deploy.onnx_graphs import rename, with_weights
from sepnas.deploy.playthrough import segment_inputs
from sepnas.deployment.onnx_session import open_session
from sepnas.errors import DeploymentError, StorageError
from sepnas.nets.planned import PlannedNetwork
from sepnas.plan.plan import Plan
from sepnas.plan.steps import Compute

_OPERATORS = ["Conv", "Add", "Relu", "Clip", "MaxPool"]
_MAX_INPUT_BYTES = 512 << 20
_BATCH = 32
_LITTLE_BYTES = 1 << 20
_WARNINGS, _ERRORS = 2, 3


class Int8Calibration:
    """The inputs of a network's segments for calibration samples, device by device.

    ``samples`` are a batch of normalised images, or of each input by name. For a large network fewer are used (at least
    8), to bound memory.
    """

    def __init__(self, network: PlannedNetwork, plan: Plan, samples: Tensor | Mapping[str, Tensor]) -> None:
        self._network, self._plan = network, plan
        per_sample = max(_input_bytes(plan, rank) for rank in range(plan.num_devices))
        count = max(8, _MAX_INPUT_BYTES // per_sample)
        named = samples if isinstance(samples, Mapping) else {port.name: samples for port in plan.inputs}
        self._samples = {name: batch[:count] for name, batch in named.items()}
        self._rank, self._inputs = -1, dict[str, dict[str, Tensor]]()

    def inputs(self, rank: int, segment: str) -> dict[str, Tensor]:
        """The inputs of a device's segment, ``(B, *shape)``, by name; cached until another device is requested."""
        if rank != self._rank:
            self._rank, self._inputs = rank, self._record(rank)
        return self._inputs[segment]

    def _record(self, rank: int) -> dict[str, dict[str, Tensor]]:
        batches = [torch.split(samples, _BATCH) for samples in self._samples.values()]
        parts = [
            segment_inputs(self._plan, self._network, dict(zip(self._samples, batch, strict=True)), rank)
            for batch in zip(*batches, strict=True)
        ]
        return {
            segment: {name: torch.cat([part[segment][name] for part in parts]) for name in taken}
            for segment, taken in parts[0].items()
        }


def int8_graph(graph: bytes, weights: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> bytes:
    """The ``.int8.onnx`` file of a segment: its fp32 graph with these weights, quantised and included in the file.

    ``inputs`` are calibration inputs by their names in the graph, ``(B, *shape)`` each.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet(), _explained(folder):
        whole, fused, quantised = (str(Path(folder, name)) for name in ("whole", "fused", "quantised"))
        onnx.save(with_weights(graph, weights), whole)
        _fuse(whole, fused)
        quantize_static(
            fused, quantised, _Batches(inputs), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS, per_channel=True,
            # unsigned activations start at zero, where a ReLU clips: it needs no operator, and all others fuse
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        model = onnx.load(quantised)
    _tidy(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class GraphModule(nn.Module):
    """A segment's graph as a module."""

    def __init__(self, graph: bytes, threads: int) -> None:
        super().__init__()
        self._session = open_session(graph, [], threads)
        self._input = self._session.get_inputs()[0].name

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(None, {self._input: x_BCHW.contiguous().numpy()})[0])


class _Batches:
    """Inputs in the form of onnxruntime's calibration data reader."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        parts = {name: torch.split(tensor, _BATCH) for name, tensor in inputs.items()}
        self._left: Iterator[dict[str, npt.NDArray[Any]]] = iter(
            [
                {name: np.ascontiguousarray(part.numpy()) for name, part in zip(parts, each, strict=True)}
                for each in zip(*parts.values(), strict=True)
            ]
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._left, None)


def _input_bytes(plan: Plan, rank: int) -> int:
    """Bytes of all inputs of a device's segments, for one image in fp32."""
    inputs = {step.segment: step.inputs for step in plan.programs[rank] if isinstance(step, Compute)}
    return sum(4 * plan.shapes[rank][name].num_values for names in inputs.values() for name in names)


def _fuse(source: str, target: str) -> None:
    """Fold batch norms into the convolutions, before quantisation."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    add_pre_process_metadata(model)  # else the quantiser logs a request for it
    onnx.save(model, target)


def _tidy(model: Any) -> None:
    """Remove unused tensors and export metadata, and make all names deterministic."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    constants = {tensor.name: f"c:{index}" for index, tensor in enumerate(graph.initializer)}
    for tensor in graph.initializer:
        tensor.name = constants[tensor.name]
    for node in graph.node:
        node.input[:] = [constants.get(name, name) for name in node.input]
    rename(graph, [value.name for value in graph.input], [value.name for value in graph.output])
    del graph.value_info[:], model.metadata_props[:]


@contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Turn any exception of onnxruntime or onnx, a full disk for temporary files included, into a typed error."""
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        if shutil.disk_usage(folder).free < _LITTLE_BYTES:
            raise StorageError(f"int8 needs temporary files in {folder}, where the disk is full: {what}") from error
        raise DeploymentError(f"onnxruntime cannot quantise a segment: {what}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress onnxruntime's warnings about its own graphs."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
