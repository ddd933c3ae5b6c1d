"""Engines that were tried and not kept, on the segments of a device: OpenVINO, ncnn and ExecuTorch, on one thread.

``python others.py SHARD ENGINE`` prints the seconds of a pass, as ``python -m sepnas.runtime.engines.choice`` does.
"""

from __future__ import annotations

import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepnas.deployment.engines.graph import CheckedGraph, Node
from sepnas.deployment.onnx_session import weight_name
from sepnas.runtime.engines.choice import make_engine
from sepnas.runtime.engines.onnx_check import read_onnx_graph
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import calls_of_a_pass

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]
WARM_UP, ROUNDS = 2, 9
TOLERANCE = 1e-4


class Segment:
    """A segment's graph, its weights by their names in it, and the shape of its input."""

    def __init__(self, shard: Shard, name: str, shape: tuple[int, ...]) -> None:
        files = shard.segments[name].files
        self.data = (shard.folder / files.files["onnxruntime"]).read_bytes()
        self.weights: Mapping[str, Array] = {
            weight_name(index): weight for index, weight in enumerate(shard.segments[name].weights)
        }
        self.shape = shape
        sizes = {name: weight.shape for name, weight in self.weights.items()}
        self.graph: CheckedGraph = read_onnx_graph(self.data, {files.inputs[0]: shape}, sizes)


def openvino(segment: Segment) -> Run:
    """From the ONNX graph, in fp32, for one shape and for latency."""
    import openvino as ov
    import torch

    from sepnas.deploy.onnx_graphs import with_weights

    whole = with_weights(segment.data, [torch.from_numpy(each) for each in segment.weights.values()])
    core = ov.Core()
    model = core.read_model(whole.SerializeToString(), b"")
    model.reshape(list(segment.shape))
    options = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda x: request.infer([x], share_inputs=True)[0]


def ncnn(segment: Segment) -> Run:
    """Its own format, written here: batch norms and ReLUs are folded into convolutions."""
    import ncnn as library

    text, data, output = NcnnFiles(segment).written()
    net = library.Net()
    net.opt.num_threads, net.opt.openmp_blocktime = 1, 0
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("net.param", text.encode()), ("net.bin", data)):
            Path(folder, name).write_bytes(content)
        assert not net.load_param(f"{folder}/net.param")
        assert not net.load_model(f"{folder}/net.bin")

    def run(x: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("b1", library.Mat(x[0]))
        return np.array(extractor.extract(output)[1])[None]

    return run


class NcnnFiles:
    """The two files of ncnn for a segment."""

    def __init__(self, segment: Segment) -> None:
        self._segment, self._nodes = segment, list(segment.graph.nodes)
        self._uses = Counter([*(name for node in self._nodes for name in node.inputs), *segment.graph.outputs])
        self._layers: list[str] = []
        self._num_blobs, self._data = 0, b""
        self._blobs: dict[str, list[str]] = {}

    def written(self) -> tuple[str, bytes, str]:
        """The text of its layers, the weights, and the name of the output."""
        graph, (_, channels, height, width) = self._segment.graph, self._segment.shape
        self._layer("Input", [], graph.inputs[0], f"0={width} 1={height} 2={channels}")
        while self._nodes:
            node = self._nodes.pop(0)
            getattr(self, f"_{node.operator.lower()}")(node)
        output = self._blobs[graph.outputs[0]][0]
        return f"7767517\n{len(self._layers)} {self._num_blobs}\n" + "\n".join(self._layers) + "\n", self._data, output

    def _blob(self) -> str:
        self._num_blobs += 1
        return f"b{self._num_blobs}"

    def _layer(self, kind: str, inputs: Sequence[str], output: str, numbers: str = "") -> None:
        given, made = [self._blobs[name].pop(0) for name in inputs], self._blob()
        self._layers.append(f"{kind} l{len(self._layers)} {len(given)} 1 {' '.join([*given, made])} {numbers}".strip())
        self._blobs[output] = [made]
        if self._uses[output] > 1:  # a blob is read once
            copies = [self._blob() for _ in range(self._uses[output])]
            self._layers.append(f"Split l{len(self._layers)} 1 {len(copies)} {' '.join([made, *copies])}")
            self._blobs[output] = copies

    def _follows(self, operator: str, name: str) -> Node | None:
        for index, node in enumerate(self._nodes if self._uses[name] == 1 else ()):
            if name in node.inputs:
                return self._nodes.pop(index) if node.operator == operator else None
        return None

    def _conv(self, node: Node) -> None:
        weight, bias, name = conv_weights(self._segment, node, self._follows("BatchNormalization", node.outputs[0]))
        relu = self._follows("Relu", name)
        groups = node.numbers.get("group", [1])[0]
        numbers = f"0={len(weight)} 1={weight.shape[2]} 3={node.numbers.get('strides', [1])[0]} "
        numbers += f"4={node.numbers.get('pads', [0])[0]} 5=1 6={weight.size} 9={int(relu is not None)}"
        kind = "Convolution" if groups == 1 else "ConvolutionDepthWise"
        self._store(weight, bias)
        self._layer(
            kind, node.inputs[:1], relu.outputs[0] if relu else name, numbers + (f" 7={groups}" if groups > 1 else "")
        )

    def _store(self, weight: Array, bias: Array) -> None:
        self._data += struct.pack("<I", 0) + weight.astype("<f4").tobytes() + bias.astype("<f4").tobytes()

    def _relu(self, node: Node) -> None:
        self._layer("ReLU", node.inputs, node.outputs[0])

    def _add(self, node: Node) -> None:
        self._layer("BinaryOp", node.inputs, node.outputs[0], "0=0")

    def _reducemean(self, node: Node) -> None:
        self._layer("Pooling", node.inputs[:1], node.outputs[0], "0=1 4=1")

    def _gemm(self, node: Node) -> None:
        weight, bias = (self._segment.weights[name] for name in node.inputs[1:])
        self._store(weight, bias)
        self._layer("InnerProduct", node.inputs[:1], node.outputs[0], f"0={len(weight)} 1=1 2={weight.size}")


def conv_weights(segment: Segment, node: Node, norm: Node | None) -> tuple[Any, Any, str]:
    """Weight and bias with the batch norm behind it in them, and the name of the output."""
    weight = segment.weights[node.inputs[1]].astype("f8")
    bias = segment.weights[node.inputs[2]].astype("f8") if len(node.inputs) > 2 else np.zeros(len(weight))
    if norm is None:
        return weight, bias, node.outputs[0]
    gamma, beta, mean, variance = (segment.weights[name].astype("f8") for name in norm.inputs[1:])
    scale = gamma / np.sqrt(variance + norm.fractions.get("epsilon", 1e-5))
    return weight * scale[:, None, None, None], (bias - mean) * scale + beta, norm.outputs[0]


def executorch(segment: Segment) -> Run:
    """Lowered to XNNPACK; its program holds the weights."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    exported = torch.export.export(torch_module(segment), (torch.zeros(segment.shape),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    program = Runtime.get().load_program(lowered.buffer)
    method = program.load_method("forward")
    kept = program, lowered  # neither may go before the method

    def run(x: Array) -> Array:
        assert kept
        made: Array = method.execute([torch.from_numpy(x)])[0].numpy()
        return made

    return run


def torch_module(segment: Segment) -> Any:
    """The graph as a module of torch's own functions."""
    import torch
    from torch.nn import functional

    class Interpreted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weight in segment.weights.items():
                self.register_buffer(name.replace(":", "_"), torch.from_numpy(weight))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = {segment.graph.inputs[0]: x}
            values |= {name: getattr(self, name.replace(":", "_")) for name in segment.weights}
            for node in segment.graph.nodes:
                values[node.outputs[0]] = self.computed(node, [values.get(name) for name in node.inputs])
            return values[segment.graph.outputs[0]]

        def computed(self, node: Node, given: list[Any]) -> Any:
            numbers = node.numbers
            if node.operator == "Conv":
                stride, padding = numbers.get("strides", [1, 1]), numbers.get("pads", [0] * 4)[:2]
                return functional.conv2d(*given, stride=stride, padding=padding, groups=numbers.get("group", [1])[0])
            if node.operator == "BatchNormalization":
                gamma, beta, mean, variance = given[1:]
                epsilon = node.fractions.get("epsilon", 1e-5)
                return functional.batch_norm(given[0], mean, variance, gamma, beta, eps=epsilon)
            if node.operator == "ReduceMean":
                return given[0].mean((2, 3))
            return {"Add": torch.add, "Relu": functional.relu, "Gemm": functional.linear}[node.operator](*given)

    return Interpreted().eval()


ENGINES: dict[str, Callable[[Segment], Run]] = {"openvino": openvino, "ncnn": ncnn, "executorch": executorch}


def main(folder: str, engine: str) -> None:
    shard = load_shard(folder)
    random = np.random.default_rng(0)
    calls = [
        (name, random.standard_normal(inputs[0].shape, dtype=np.float32)) for name, inputs in calls_of_a_pass(shard)
    ]
    runs = {name: ENGINES[engine](Segment(shard, name, x.shape)) for name, x in calls}
    exact = make_engine("onnxruntime", shard).engine
    for name, x in calls:
        [wanted] = exact.run(name, [x])
        off = np.abs(runs[name](x).reshape(wanted.shape) - wanted).max() / max(1.0, np.abs(wanted).max())
        assert off <= TOLERANCE, f"{engine} is off by {off}"
    times = []
    for _ in range(WARM_UP + ROUNDS):
        start = time.perf_counter()
        for name, x in calls:
            runs[name](x)
        times.append(time.perf_counter() - start)
    print(statistics.median(times[WARM_UP:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
