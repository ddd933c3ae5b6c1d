"""LiteRT (formerly TensorFlow Lite) with XNNPACK: the engine for phones and boards; it reads onnxruntime's graphs.

A deployment has no files in LiteRT's own format: the device builds the model in memory from the operators of a checked
ONNX graph. LiteRT's parser therefore never reads untrusted bytes.

Feature maps are NHWC within a segment and NCHW at its ends. Batch norms are folded into the preceding convolutions.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from sepnas.deployment.engines.graph import CheckedGraph, Node, SegmentGraph, ShapeOf
from sepnas.deployment.engines.kind import EngineKind
from sepnas.errors import DeploymentError

if TYPE_CHECKING:
    from sepnas.deployment.engines.graph import Array

ENGINE = EngineKind(
    name="litert",
    order=2,
    package="ai_edge_litert",
    extra="litert",
    distribution="ai-edge-litert",
    runner="sepnas.runtime.engines.onnx_engine:OnnxEngine",
    open_graph="sepnas.deployment.engines.litert:LiteRtGraph",
    reads="onnxruntime",
    fuses=True,
)

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
MAX_PADDED_VALUES = 1 << 28
"""Maximum number of values of a padded input, which LiteRT allocates and the graph check does not count."""
_IDENTIFIER = b"TFL3"
_VERSION = 3


class LiteRtGraph:
    """A segment in LiteRT: built for the shapes of its first inputs; tensors are reallocated when the batch changes."""

    def __init__(self, graph: SegmentGraph, threads: int) -> None:
        import ai_edge_litert.interpreter

        self._interpreters = ai_edge_litert.interpreter
        self._graph, self._threads = graph, threads
        self._interpreter: Any = None
        self._batch = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        with self._lock:  # an interpreter has one set of tensors
            if self._batch != len(inputs[0]):
                self._prepare([array.shape for array in inputs])
            for index, array in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _prepare(self, shapes: Sequence[ShapeOf]) -> None:
        try:
            if self._interpreter is None:
                self._make(shapes)
            for index, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape)
            with _quiet():
                self._interpreter.allocate_tensors()
            self._check_outputs(shapes)
        except ImportError:
            raise
        except Exception as error:  # LiteRT and numpy raise many types
            raise DeploymentError(f"{self._graph.path}: litert cannot run this segment: it {error}") from error
        self._batch = shapes[0][0]

    def _check_outputs(self, shapes: Sequence[ShapeOf]) -> None:
        checked = self._graph.checked(shapes)
        for name, details in zip(checked.outputs, self._interpreter.get_output_details(), strict=True):
            found = tuple(map(int, details["shape"]))
            if found != checked.shapes[name]:
                raise ValueError(f"makes a tensor of shape {found} there, not {checked.shapes[name]}")

    def _make(self, shapes: Sequence[ShapeOf]) -> None:
        model = litert_model(self._graph.checked(shapes), self._graph.weights)
        with _quiet():
            self._interpreter = self._interpreters.Interpreter(model_content=model, num_threads=self._threads)
        self._graph = replace(self._graph, weights=())  # the model holds them from now on
        self._inputs, self._outputs = (
            [each["index"] for each in details]
            for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )


def litert_model(graph: CheckedGraph, weights: Sequence[Array]) -> bytes:
    """A graph with its weights as a LiteRT model; raises :class:`ValueError` for an unsupported operator."""
    return _Writer(graph, weights).write()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep LiteRT's note about XNNPACK off stderr, which is a worker's log."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


class _Writer:
    """Writes one model: tensors and operators in the order of the graph's nodes."""

    def __init__(self, graph: CheckedGraph, weights: Sequence[Array]) -> None:
        import numpy as np
        from ai_edge_litert import schema_py_generated as schema

        from sepnas.deployment.onnx_session import weight_name

        self._np, self._schema = np, schema
        self._graph = graph
        self._weights = {weight_name(index): weight for index, weight in enumerate(weights)}
        self._uses = Counter([*(name for node in graph.nodes for name in node.inputs), *graph.outputs])
        self._places: dict[str, int] = {}
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._codes: list[int] = []

    def write(self) -> bytes:
        inputs = [self._input(name) for name in self._graph.inputs]
        nodes = list(self._graph.nodes)
        while nodes:
            node = nodes.pop(0)
            write = _OPERATORS.get(node.operator)
            if write is None:
                raise ValueError(f"has operator '{node.operator}'")
            if node.operator in _ON_MAPS and len(self._graph.shapes[node.inputs[0]]) != 4:
                raise ValueError(f"has operator '{node.operator}' on other tensors than maps with height and width")
            write(self, node, nodes)
        outputs = [self._output(name) for name in self._graph.outputs]
        return self._packed(inputs, outputs)

    def _packed(self, inputs: list[int], outputs: list[int]) -> bytes:
        import flatbuffers

        schema = self._schema
        part, model = schema.SubGraphT(), schema.ModelT()
        part.tensors, part.operators, part.inputs, part.outputs = self._tensors, self._operators, inputs, outputs
        model.version, model.subgraphs, model.buffers = _VERSION, [part], self._buffers
        model.operatorCodes = [self._code(code) for code in self._codes]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, builtin: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        return code

    def _input(self, name: str) -> int:
        shape = self._graph.shapes[name]
        given = self._tensor(shape)
        self._places[name] = self._transposed(given, shape, _TO_NHWC) if len(shape) == 4 else given
        return given

    def _output(self, name: str) -> int:
        shape, place = self._graph.shapes[name], self._places[name]
        return self._transposed(place, _inside(shape), _TO_NCHW) if len(shape) == 4 else place

    def _transposed(self, place: int, shape: ShapeOf, order: tuple[int, ...]) -> int:
        made = self._tensor(tuple(shape[axis] for axis in order))
        options = self._schema.TransposeOptionsT()
        self._operator("Transpose", [place, self._whole_numbers(order)], made, options)
        return made

    def _tensor(self, shape: ShapeOf, values: Any = None, kind: str = "FLOAT32") -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self._tensors)}".encode(), list(shape)
        tensor.type, tensor.buffer = getattr(self._schema.TensorType, kind), 0
        if values is not None:
            buffer = self._schema.BufferT()
            buffer.data = self._np.frombuffer(self._np.ascontiguousarray(values).tobytes(), self._np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _floats(self, values: Any) -> int:
        return self._tensor(values.shape, values.astype("<f4"))

    def _whole_numbers(self, values: Any) -> int:
        array = self._np.array(values, "<i4")
        return self._tensor(array.shape, array, "INT32")

    def _operator(self, name: str, inputs: list[int], output: int, options: Any, code: str = "") -> None:
        builtin = getattr(self._schema.BuiltinOperator, code or name.upper())
        if builtin not in self._codes:
            self._codes.append(builtin)
        operator = self._schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(builtin), inputs, [output]
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, f"{name}Options") if options else 0
        operator.builtinOptions = options
        self._operators.append(operator)

    def _made(self, name: str) -> int:
        self._places[name] = self._tensor(_inside(self._graph.shapes[name]))
        return self._places[name]

    def _weight(self, node: Node, index: int) -> Any:
        """The weight at an input position; None if the input is omitted."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name and name not in self._weights:
            raise ValueError(f"holds constants of operator '{node.operator}', which belong to the weights")
        return self._weights[name].astype("f8") if name else None

    def _value(self, name: str) -> int:
        """The tensor index of an activation, or of a constant used as one."""
        if name not in self._places and name in self._weights:
            values = self._weights[name]
            values = values.transpose(_TO_NHWC) if values.ndim == 4 else values
            self._places[name] = self._floats(values)
        return self._places[name]

    def _next(self, operator: str, name: str, nodes: list[Node]) -> Node | None:
        """Remove and return the only node that reads ``name``, if it is this operator."""
        for index, node in enumerate(nodes if self._uses[name] == 1 else ()):
            if name in node.inputs:
                return nodes.pop(index) if (node.operator, node.inputs[0]) == (operator, name) else None
        return None

    def _activated(self, options: Any, name: str, nodes: list[Node]) -> str:
        """Fuse a following ReLU or ReLU6 into the operator; return the name of the resulting output."""
        kinds = self._schema.ActivationFunctionType
        for operator, kind in (("Relu", kinds.RELU), ("Clip", kinds.RELU6)):
            follows = self._next(operator, name, nodes)
            if follows is not None:
                self._check_clip(follows)
                options.fusedActivationFunction = kind
                return follows.outputs[0]
        return name

    def _check_clip(self, node: Node) -> None:
        bounds = [self._graph.numbers.get(name) for name in node.inputs[1:]]
        if node.operator == "Clip" and bounds != [0.0, 6.0]:
            raise ValueError(f"has operator 'Clip' with bounds {bounds}, not 0 and 6")

    def conv(self, node: Node, nodes: list[Node]) -> None:
        weight_OIHW, bias = self._weight(node, 1), self._weight(node, 2)
        if weight_OIHW.shape[1] * node.numbers.get("group", [1])[0] != self._graph.shapes[node.inputs[0]][1]:
            raise ValueError("has a convolution whose groups do not fit its weight")
        bias = self._np.zeros(len(weight_OIHW)) if bias is None else bias
        name = node.outputs[0]
        norm = self._next("BatchNormalization", name, nodes)
        if norm is not None:
            scale, shift = self._scale_and_shift(norm)
            weight_OIHW, bias = weight_OIHW * scale[:, None, None, None], bias * scale + shift
            name = norm.outputs[0]
        options = self._schema.Conv2DOptionsT()
        options.strideH, options.strideW = node.numbers.get("strides", [1, 1])
        options.dilationHFactor, options.dilationWFactor = node.numbers.get("dilations", [1, 1])
        options.padding = self._schema.Padding.VALID
        given = self._padded(node)
        name = self._activated(options, name, nodes)
        weights = [self._floats(weight_OIHW.transpose(_TO_NHWC)), self._floats(bias)]
        self._operator("Conv2D", [given, *weights], self._made(name), options, "CONV_2D")

    def _padded(self, node: Node, filled: float = 0.0) -> int:
        """The tensor index of a window operator's input, padded by ``filled``."""
        name = node.inputs[0]
        top, left, bottom, right = node.numbers.get("pads", [0] * 4)
        if not (top or left or bottom or right):
            return self._places[name]
        batch, channels, height, width = self._graph.shapes[name]
        shape = (batch, height + top + bottom, width + left + right, channels)
        if prod(shape) > MAX_PADDED_VALUES:
            raise ValueError(f"pads a tensor to {prod(shape):,} values; at most {MAX_PADDED_VALUES:,}")
        made = self._tensor(shape)
        amounts = self._whole_numbers([(0, 0), (top, bottom), (left, right), (0, 0)])
        if filled:
            filling = self._floats(self._np.array(filled))
            self._operator("PadV2", [self._places[name], amounts, filling], made, self._schema.PadV2OptionsT())
        else:
            self._operator("Pad", [self._places[name], amounts], made, self._schema.PadOptionsT())
        return made

    def _scale_and_shift(self, node: Node) -> tuple[Any, Any]:
        gamma, beta, mean, variance = (self._weight(node, index) for index in range(1, 5))
        scale = gamma / self._np.sqrt(variance + node.fractions.get("epsilon", 1e-5))
        return scale, beta - mean * scale

    def batch_norm(self, node: Node, nodes: list[Node]) -> None:
        scale, shift = self._scale_and_shift(node)
        scaled = self._tensor(_inside(self._graph.shapes[node.outputs[0]]))
        self._operator("Mul", [self._value(node.inputs[0]), self._floats(scale)], scaled, self._schema.MulOptionsT())
        options = self._schema.AddOptionsT()
        name = self._activated(options, node.outputs[0], nodes)
        self._operator("Add", [scaled, self._floats(shift)], self._made(name), options)

    def add(self, node: Node, nodes: list[Node]) -> None:
        if len({len(self._graph.shapes[name]) for name in node.inputs}) > 1:
            raise ValueError("adds tensors of different numbers of axes")
        given = [self._value(name) for name in node.inputs]
        options = self._schema.AddOptionsT()
        name = self._activated(options, node.outputs[0], nodes)
        self._operator("Add", given, self._made(name), options)

    def relu(self, node: Node, nodes: list[Node]) -> None:
        self._operator("Relu", [self._value(node.inputs[0])], self._made(node.outputs[0]), None)

    def clip(self, node: Node, nodes: list[Node]) -> None:
        self._check_clip(node)
        self._operator("Relu6", [self._value(node.inputs[0])], self._made(node.outputs[0]), None)

    def max_pool(self, node: Node, nodes: list[Node]) -> None:
        dilations, ceil_mode = node.numbers.get("dilations", []), node.numbers.get("ceil_mode", [])
        if any(ceil_mode) or {*dilations} - {1}:
            raise ValueError("has operator 'MaxPool' with gaps, or beyond the border")
        options = self._schema.Pool2DOptionsT()
        options.filterHeight, options.filterWidth = node.numbers["kernel_shape"]
        options.strideH, options.strideW = node.numbers.get("strides", [1, 1])
        options.padding = self._schema.Padding.VALID
        self._value(node.inputs[0])
        given = self._padded(node, filled=-self._np.inf)
        self._operator("Pool2D", [given], self._made(node.outputs[0]), options, "MAX_POOL_2D")

    def mean(self, node: Node, nodes: list[Node]) -> None:
        """The mean over height and width."""
        if [self._graph.axes.get(name) for name in node.inputs[1:]] != [[2, 3]]:
            raise ValueError("has operator 'ReduceMean' over other axes than height and width")
        options = self._schema.ReducerOptionsT()
        options.keepDims = bool(node.numbers.get("keepdims", [1])[0])
        given = [self._value(node.inputs[0]), self._whole_numbers([1, 2])]
        self._operator("Reducer", given, self._made(node.outputs[0]), options, "MEAN")

    def linear(self, node: Node, nodes: list[Node]) -> None:
        if node.numbers.get("transA", [0])[0] or {*node.fractions.values()} - {1.0}:
            raise ValueError("has operator 'Gemm' with factors, or for a transposed input")
        weight, bias = self._weight(node, 1), self._weight(node, 2)
        weight_OI = weight if node.numbers.get("transB", [0])[0] else weight.T
        bias = self._np.zeros(len(weight_OI)) if bias is None else bias
        options = self._schema.FullyConnectedOptionsT()
        name = self._activated(options, node.outputs[0], nodes)
        given = [self._value(node.inputs[0]), self._floats(weight_OI), self._floats(bias)]
        self._operator("FullyConnected", given, self._made(name), options, "FULLY_CONNECTED")


_OPERATORS = {
    "Add": _Writer.add,
    "BatchNormalization": _Writer.batch_norm,
    "Clip": _Writer.clip,
    "Conv": _Writer.conv,
    "Gemm": _Writer.linear,
    "MaxPool": _Writer.max_pool,
    "ReduceMean": _Writer.mean,
    "Relu": _Writer.relu,
}
_ON_MAPS = ("Conv", "MaxPool", "ReduceMean")


def _inside(shape: ShapeOf) -> ShapeOf:
    """A tensor's shape in the layout used within a segment (NHWC)."""
    return tuple(shape[axis] for axis in _TO_NHWC) if len(shape) == 4 else shape
