"""Graphs of segments that would make more than a look at their shapes tells are refused, before memory is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.numpy_helper import from_array

from sepnas.errors import DeploymentError
from sepnas.runtime.engines.batches import CheckedBatches
from sepnas.runtime.engines.onnx_check import check_onnx_batch, check_onnx_graph, depends_on_sizes, read_onnx_graph
from sepnas.runtime.engines.torch_shapes import GraphShapes

NODE = helper.make_node
NUMBERS = {
    "zeros": [0] * 16, "zero": [0], "one": [1], "row": [1, 16], "big": [2**32 + 1], "end": [64], "bend": [1, 1, 500],
    "ones": [1, 1], "none": [],
}  # fmt: skip
GATHER = [NODE("Slice", ["rows", "zero", "one"], ["places"]), NODE("Gather", ["x", "places"], ["y"], axis=1)]
HIDDEN = {
    "a list as a row": ([NODE("Reshape", ["zeros", "row"], ["rows"]), *GATHER], "Reshape of 16 sizes"),
    "a list in a list": ([NODE("Unsqueeze", ["zeros", "zero"], ["rows"]), *GATHER], "Unsqueeze of sizes"),
    "a number that does not fit its type": (
        [NODE("Cast", ["big"], ["step"], to=6), NODE("Slice", ["x", "zero", "end", "one", "step"], ["y"])],
        "Cast of sizes",
    ),
    "a side resized twice": ([NODE("Resize", ["x", "", "", "ones"], ["y"], axes=[1, 1])], "operator Resize"),
}
BENT = [
    NODE("Shape", ["x"], ["sizes"]),
    NODE("Slice", ["sizes", "zero", "one"], ["samples"]),
    NODE("Slice", ["bend", "zero", "end", "zero", "samples"], ["found"]),
    NODE("Concat", ["found", "ones"], ["times"], axis=0),
    NODE("Gather", ["times", "one"], ["time"]),
    NODE("Concat", ["one", "time"], ["each"], axis=0),
    NODE("Tile", ["x", "each"], ["y"]),
]
"""64 values of one sample and of many, and 32,000 for each of two."""


def _model(nodes: list[onnx.NodeProto], opset: int = 20) -> bytes:
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    held = [from_array(np.array(each, np.int64), name) for name, each in NUMBERS.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


@pytest.mark.parametrize("what", HIDDEN)
def test_numbers_are_those_that_an_engine_works_out(what: str):
    """Whole numbers of a graph are followed only where they are the same in every engine."""
    nodes, says = HIDDEN[what]
    with pytest.raises(ValueError, match=says):
        check_onnx_graph(_model(nodes), {"x": (1, 64)}, {})


@pytest.mark.parametrize("opset", [1, 11, 17, 99])
def test_operators_are_of_a_version_whose_shapes_are_known(opset: int):
    """Attributes of older versions, which would be passed over, are not read by an engine either."""
    with pytest.raises(ValueError, match=r"of versions \[.*18\.\.30"):
        check_onnx_graph(_model([NODE("Split", ["x"], ["y", "z"], axis=1)], opset), {"x": (1, 64)}, {})


def test_a_mean_along_no_axis_is_one_along_all():
    """An empty list of axes stands for all of them."""
    assert check_onnx_graph(_model([NODE("ReduceMean", ["x", "none"], ["y"])]), {"x": (1, 64)}, {}) == {"y": (1, 1)}


def test_a_number_cut_short_is_not_unpacked():
    """A list of numbers in two pieces, of which each is too short, is no list of numbers."""
    tensor = onnx.TensorProto(name="k", data_type=7, dims=[1]).SerializeToString() + 2 * (b"\x4a\x04" + b"\0" * 4)
    graph = helper.make_graph([NODE("Relu", ["x"], ["y"])], "g", [], [])
    graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]))
    graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    data = graph.SerializeToString() + bytes([5 << 3 | 2, len(tensor)]) + tensor
    opset = onnx.OperatorSetIdProto(version=20).SerializeToString()
    model = bytes([7 << 3 | 2, len(data)]) + data + bytes([8 << 3 | 2, len(opset)]) + opset
    assert check_onnx_graph(model, {"x": (1,)}, {}) == {"y": (1,)}


def test_each_number_of_samples_is_looked_at_where_sizes_are_numbers():
    """A graph that takes little for one sample and for many may take much for a few: each number is checked."""
    model, inputs = _model(BENT), {"x": (1, 64)}
    assert check_onnx_graph(model, inputs, {}) == {"y": (1, 64)}
    one = read_onnx_graph(model, inputs, {})
    assert depends_on_sizes(one)
    check_onnx_batch(model, inputs, {}, 3, one)
    with pytest.raises(ValueError, match="faster than the number of samples"):
        check_onnx_batch(model, inputs, {}, 2, one)


def test_a_number_of_samples_is_checked_once():
    """One sample is known from the start; every other number is checked when it first comes."""
    asked: list[int] = []
    batches = CheckedBatches([(1, 4), (2, 3)], asked.append)
    for samples in (1, 3, 3, 2):
        batches.check([np.zeros((samples, 4), np.float32), np.zeros((2 * samples, 3), np.float32)])
    assert asked == [3, 2]
    with pytest.raises(DeploymentError, match="one number of samples"):
        batches.check([np.zeros((3, 4), np.float32), np.zeros((2, 3), np.float32)])


def _pooled(x):
    torch.ops.aten.adaptive_max_pool2d.default(x, [60_000, 60_000])
    return x + 1


def _copied(x):
    rows, columns = x.expand(2, 1, 4096, 4096), x.reshape(1, 1, 4096, 1).expand(2, 4096, 4096, 1)
    return torch.ops.aten.matmul.default(rows, columns)


def _bent() -> torch.fx.GraphModule:
    """Two outer products: of n and 64 - n values for n samples, and of the result with itself; most for 32."""
    aten, graph = torch.ops.aten, torch.fx.Graph()
    x = graph.placeholder("x")
    samples = graph.call_function(aten.sym_size.int, (x, 0))
    square = graph.call_function(aten.select.int, (x, 0, 0))
    column = graph.call_function(aten.slice.Tensor, (square, 1, 0, 1))
    first = graph.call_function(aten.slice.Tensor, (column, 0, 0, samples))
    row = graph.call_function(aten.slice.Tensor, (square, 0, 0, 1))
    last = graph.call_function(aten.slice.Tensor, (row, 1, samples, 64))
    product = graph.call_function(aten.mul.Tensor, (first, last))
    sides = [graph.call_function(aten.reshape.default, (product, shape)) for shape in ([-1, 1], [1, -1])]
    graph.output((graph.call_function(aten.mul.Tensor, tuple(sides)),))
    return torch.fx.GraphModule({}, graph)


def test_sizes_that_torch_works_out_are_looked_at_for_each_number_of_samples():
    """Torch's graphs are checked for each number of samples, too."""
    shapes = GraphShapes(Path("a.pt2"), _bent(), [], [(1, 64, 64)])
    assert shapes.depend_on_sizes
    assert shapes.made() == [(63, 63)]
    shapes.check(1)
    with pytest.raises(DeploymentError, match="faster than the number of samples"):
        shapes.check(32)


@pytest.mark.parametrize(("function", "size"), [(_pooled, 8), (_copied, 4096)])
def test_all_that_an_operator_makes_is_counted(function, size: int, monkeypatch):
    """Tensors that an operator makes besides its first, also unused ones, and copies of its inputs are counted."""
    module = torch.nn.Module()
    module.forward = function
    program = torch.export.export(module, (torch.empty(1, 1, 1 if function is _copied else size, size),))
    shapes = GraphShapes(Path("a.pt2"), program.graph_module, [], [(1, 1, 1 if function is _copied else size, size)])
    with pytest.raises(DeploymentError, match=r"refused: it makes tensors of [\d,]+ values"):
        shapes.made()
