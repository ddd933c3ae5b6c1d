"""Graphs of segments that somebody else wrote: nothing in them runs, and none takes more than its share."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx.numpy_helper import from_array

from sepnas.deployment.engines.registry import engines
from sepnas.errors import DeploymentError
from sepnas.runtime.engines.onnx_check import check_onnx_graph
from sepnas.runtime.engines.onnx_engine import OnnxEngine
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_archive import load_graph
from sepnas.runtime.engines.torch_engine import TorchEngine, calls_of_a_pass
from tests.deploy.test_deploy import in_model, rewritten
from tests.deployment.test_damaged_files import damaged, numbers, quick


def with_two_directories(path, marker):
    """A .pt2 with two directories: Python's reader finds the harmless records, torch's an expression to evaluate."""
    with zipfile.ZipFile(path) as archive:
        good = {name: archive.read(name) for name in archive.namelist()}
    evil = f"__import__('pathlib').Path({str(marker)!r}).touch() or Symbol('s".encode()
    bad = in_model(b"Symbol('s", json.dumps(evil.decode())[1:-1].encode())(good)
    data, directories = b"", []
    for records in (bad, good):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, content)
        file = buffer.getvalue()
        count, size, start = struct.unpack("<HII", file[-12:-2])
        directories.append((bytearray(file[start : start + size]), len(data), count))
        data += file[:start]
    (first, _, count), (second, shift, _) = directories
    first_at = len(data)
    data += bytes(first)
    # Python takes the directory that ends where the end record starts, and moves all offsets by what it is off
    place = 0
    while place < len(second):
        name, extra, comment = struct.unpack_from("<HHH", second, place + 28)
        (offset,) = struct.unpack_from("<I", second, place + 42)
        struct.pack_into("<i", second, place + 42, offset + shift - (len(data) - first_at))
        place += 46 + name + extra + comment
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(second), first_at, 0)
    path.write_bytes(data + bytes(second) + end)


def test_what_was_not_looked_at_is_not_run(exported, tmp_path):
    """An archive of two directories: torch gets what was checked, and the expression in the other one never runs."""
    path = Path(shutil.copy(next((exported / "device0/segments").glob("*.pt2")), tmp_path / "two.pt2"))
    whole = load_graph(path)
    with_two_directories(path, tmp_path / "ran")
    with zipfile.ZipFile(path) as archive:
        assert b"touch" not in archive.read("archive/models/model.json")
    torch.export.load(path)
    (tmp_path / "ran").unlink()  # so much for torch's own reader
    assert load_graph(path).code == whole.code
    assert not (tmp_path / "ran").exists()


PADDING = b'"padding", "arg": {"as_ints": [%d, %d]}'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            b'"padding", "arg": {"as_ints": [1, 1]}',
            b'"padding", "arg": {"as_ints": [90000, 90000]}',
            "makes tensors of .* values",
        ),
        (b'{"as_ints": [2, 3]}', b'{"as_ints": [2]}', "makes a tensor of shape|does not fit"),
    ],
    ids=["memory", "shape"],
)
def test_a_graph_that_makes_too_much_is_refused(old: bytes, new: bytes, says: str, exported: Path, tmp_path: Path):
    """Tensors of 40 GB, and another shape than the manifest's, are an error before anything is computed."""
    folder = Path(shutil.copytree(exported / "device0", tmp_path / "device0"))
    shard = load_shard(folder)
    for path in folder.glob("segments/*.pt2"):
        with zipfile.ZipFile(path) as archive:
            found = old in archive.read("archive/models/model.json")
        if found:
            rewritten(path, path.with_suffix(".new"), in_model(old, new)).rename(path)
    with pytest.raises(DeploymentError, match=says):
        TorchEngine(shard)


INPUT = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])
OUTPUT = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
SIZE = from_array(np.array([100_000, 100_000], np.int64), "size")
TALL = from_array(np.zeros((1, 1, 99999, 1), np.float32), "t")
WIDE = from_array(np.zeros(99999, np.float32), "w")
WIDE_KERNEL = from_array(np.zeros((1, 1, 100, 100), np.float32), "k")  # patches of 10,000 values at 509 x 509 places
ELSEWHERE = onnx.TensorProto(name="w0", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
ELSEWHERE.external_data.add(key="location", value="/etc/hostname")
HUGE = onnx.TensorProto(name="w", data_type=1, dims=[1 << 28])
BODY = helper.make_graph([helper.make_node("Identity", ["i"], ["o"])], "body", [], [])
STRIDED = helper.make_node("Conv", ["x", "w0"], ["y"], pads=[9000] * 4)
STRIDED.attribute.add(name="strides", type=onnx.AttributeProto.INTS, i=9000)  # other readers find no strides
TURNED = helper.make_node("Gemm", ["x", "w0"], ["y"])
TURNED.attribute.add(name="transA", type=onnx.AttributeProto.INT, ints=[1])
BAD_GRAPHS = {
    "attribute 'strides' whose value is not of its type": ([STRIDED], []),
    "attribute 'transA' whose value is not of its type": ([TURNED], []),
    "uses operator 'ConstantOfShape'": ([helper.make_node("ConstantOfShape", ["size"], ["y"])], [SIZE]),
    "uses operator 'Loop'": ([helper.make_node("Loop", ["x"], ["y"], body=BODY)], []),
    "uses operator 'Relu', 'of domain ai.own'": ([helper.make_node("Relu", ["x"], ["y"], domain="ai.own")], []),
    "holds field 6": ([helper.make_node("Relu", ["x"], ["y"], body=BODY)], []),
    "lies in another file": ([helper.make_node("Add", ["x", "w0"], ["y"])], [ELSEWHERE]),
    "268,435,456 values in 0 bytes": ([helper.make_node("Add", ["x", "w"], ["y"])], [HUGE]),
    r"makes tensors of 9,\d+,\d+,\d+ values": ([helper.make_node("Add", ["t", "w"], ["y"])], [TALL, WIDE]),
    r"makes tensors of 2,\d+,\d+,\d+ values \(the last by Conv\)": (
        [helper.make_node("Conv", ["x", "k"], ["y"], pads=[300] * 4)],
        [WIDE_KERNEL],
    ),
    "which nothing makes": ([helper.make_node("Add", ["x", "z"], ["y"])], []),
    "grows faster than the number of samples": (
        [
            helper.make_node("Transpose", ["x"], ["a"], perm=[2, 3, 0, 1]),
            helper.make_node("Transpose", ["x"], ["b"], perm=[2, 3, 1, 0]),
            helper.make_node("MatMul", ["a", "b"], ["y"]),
        ],
        [],
    ),
}


@pytest.mark.parametrize("says", BAD_GRAPHS)
def test_an_onnx_graph_is_a_list_of_known_operators(says: str, exported: Path, tmp_path: Path):
    """Loops, foreign operators, other files and huge tensors are refused before onnxruntime sees them."""
    nodes, tensors = BAD_GRAPHS[says]
    model = helper.make_model(helper.make_graph(nodes, "g", [INPUT], [OUTPUT], tensors)).SerializeToString()
    with pytest.raises(ValueError, match=says):
        check_onnx_graph(model, {"x": (1, 1, 8, 8)}, {"w0": (1,)})
    shard = _with_graph(load_shard(exported / "device0"), model, tmp_path)
    with pytest.raises(DeploymentError, match=rf"\.onnx: refused: it .*{says}"):
        OnnxEngine(shard)


def _op(name: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(name, ["x", *inputs], ["y"], **attributes)


def _two(first: onnx.NodeProto) -> list[onnx.NodeProto]:
    first.output[:] = ["a"]
    return [first, helper.make_node("Relu", ["a"], ["y"])]


NORM = ["four"] * 4
UNFIT = {
    "norm longer": _op("BatchNormalization", *["many"] * 4),
    "norm shorter": _op("BatchNormalization", *["three"] * 4),
    "norm of one number": _op("BatchNormalization", *["one"] * 4),
    "norm with one vector off": _op("BatchNormalization", "four", "four", "four", "many"),
    "norm of matrices": _op("BatchNormalization", *["square"] * 4),
    "norm that trains": _op("BatchNormalization", *NORM, training_mode=1),
    "norm without variance": _op("BatchNormalization", "four", "four", "four"),
    "norm with one left out": _op("BatchNormalization", "four", "", "four", "four"),
    "conv of other channels": _op("Conv", "k3"),
    "conv of groups that do not divide": _op("Conv", "k1of3", group=4),
    "conv of groups that do not fit": _op("Conv", "k4", group=2),
    "conv of no groups": _op("Conv", "k4", group=0),
    "conv of groups below zero": _op("Conv", "k4", group=-1),
    "conv with a long bias": _op("Conv", "k4", "many"),
    "conv with a scalar bias": _op("Conv", "k4", "scalar"),
    "conv with another kernel": _op("Conv", "k4", kernel_shape=[3, 3]),
    "conv with few pads": _op("Conv", "k4", pads=[1, 1]),
    "conv with many pads": _op("Conv", "k4", pads=[1] * 6),
    "conv with pads below zero": _op("Conv", "k4", pads=[-1, 0, 0, 0]),
    "conv with one stride": _op("Conv", "k4", strides=[1]),
    "conv of stride 0": _op("Conv", "k4", strides=[0, 1]),
    "conv of three dilations": _op("Conv", "k4", dilations=[1, 1, 1]),
    "conv with an empty weight": _op("Conv", "k0"),
    "conv with a matrix": _op("Conv", "square"),
    "conv alone": _op("Conv"),
    "conv of four inputs": _op("Conv", "k4", "four", "four"),
    "gemm on feature maps": _op("Gemm", "square"),
    "gemm of feature maps": _op("Gemm", "k4"),
    "add of other sides": _op("Add", "three"),
    "add of other channels": _op("Add", "k3"),
    "add alone": _op("Add"),
    "add of three": _op("Add", "x", "x"),
    "mean of three inputs": _op("ReduceMean", "sides", "sides"),
    "relu of two": _op("Relu", "x"),
    "clip to a vector": _op("Clip", "four"),
    "clip to a vector above": _op("Clip", "scalar", "four"),
    "clip with three bounds": _op("Clip", "scalar", "scalar", "scalar"),
    "max-pool beyond the border": _op("MaxPool", kernel_shape=[2, 2], pads=[2] * 4),
    "max-pool larger than its input": _op("MaxPool", kernel_shape=[9, 2]),
    "max-pool of one side": _op("MaxPool", kernel_shape=[2]),
    "max-pool of stride 0": _op("MaxPool", kernel_shape=[2, 2], strides=[0, 1]),
    "max-pool of two": _op("MaxPool", "x", kernel_shape=[2, 2]),
    "pad of the batch": _op("Pad", "pads_batch"),
    "pad below zero": _op("Pad", "pads_below"),
    "pad of two axes": _op("Pad", "sides"),
    "pad by what is not held": _op("Pad", "four"),
    "pad by a vector": _op("Pad", "pads_even", "four"),
    "slice of the batch": _op("Slice", "number0", "number2", "number0"),
    "slice of nothing": _op("Slice", "number2", "number2", "number2"),
    "slice with few ends": _op("Slice", "sides", "number2"),
    "concat of the batch": _op("Concat", "x", axis=0),
    "concat of others": _op("Concat", "k4", axis=1),
    "concat beyond the axes": _op("Concat", "x", axis=4),
    "reshape to more": _op("Reshape", "sizes_more"),
    "reshape of samples": _op("Reshape", "sizes_samples"),
    "reshape by what is not held": _op("Reshape", "four"),
    "mul of other channels": _op("Mul", "k3"),
    "quantised with many scales": _op("QuantizeLinear", "many"),
    "quantised on no axis": _op("QuantizeLinear", "four", axis=7),
    "quantised with other zero points": _op("QuantizeLinear", "four", "many"),
    "dequantised with a matrix": _op("DequantizeLinear", "square"),
    "dequantised in blocks": _op("DequantizeLinear", "four", block_size=2),
    "product of other sizes": _op("MatMul", "square"),
    "product with a vector": _op("MatMul", "four"),
    "transpose by one axis twice": _op("Transpose", perm=[0, 1, 1, 3]),
    "softmax beyond the axes": _op("Softmax", axis=4),
    "layer norm of four": _op("LayerNormalization", "four"),
    "instance norm of three channels": _op("InstanceNormalization", "three", "three"),
    "group norm of three groups": _op("GroupNormalization", "four", "four", num_groups=3),
    "mean beyond the axes": _op("ReduceMean", "number9"),
    "sum that may do nothing": _op("ReduceSum", "sides", noop_with_empty_axes=1),
    "squeeze of a side": _op("Squeeze", "number2"),
    "unsqueeze of one axis twice": _op("Unsqueeze", "twice"),
    "expand to others": _op("Expand", "sides"),
    "tile of two axes": _op("Tile", "sides"),
    "gather beyond the border": _op("Gather", "number9", axis=2),
    "gather at what is not held": _op("Gather", "four"),
    "gather of five axes": _op("GatherND", "places"),
    "cast to a text": _op("Cast", to=8),
    "blocks of three": _op("DepthToSpace", blocksize=3),
    "resize of one axis": _op("Resize", "", "", "number2"),
    "where of others": _op("Where", "three", "x"),
    "power of others": _op("Pow", "three"),
    "transposed conv of other channels": _op("ConvTranspose", "k3of4"),
    "transposed conv to a shape": _op("ConvTranspose", "k4", output_shape=[9, 9]),
    "cumulated beyond the axes": _op("CumSum", "number9"),
    "split into too many": _op("Split", "sides", axis=1),
}
CONSTANTS = {
    "many": (300_000,), "four": (4,), "three": (3,), "one": (1,), "scalar": (), "square": (4, 4), "wide": (10, 9000),
    "k4": (4, 4, 1, 1), "k3": (4, 3, 1, 1), "k1of3": (3, 1, 1, 1), "k0": (4, 4, 0, 1),
    "k3of4": (3, 4, 1, 1), "places": (2, 5),
}  # fmt: skip


NUMBERS = {
    "sides": [2, 3], "pads_batch": [1, 0, 0, 0, 0, 0, 0, 0], "pads_below": [0, 0, -1, 0, 0, 0, 0, 0],
    "pads_even": [0, 0, 1, 1, 0, 0, 1, 1], "number0": [0], "number2": [2], "number9": [9], "twice": [1, 1],
    "sizes_more": [-1, 300], "sizes_samples": [2, 128], "sizes_all": [-1, 256],
}  # fmt: skip


def _graph(nodes: list[onnx.NodeProto]) -> bytes:
    tensors = [from_array(np.zeros(shape, np.float32), name) for name, shape in CONSTANTS.items()]
    for name, held in NUMBERS.items():
        data = np.array(held, np.int64).tobytes()
        tensors.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(held)], data, raw=True))
    return helper.make_model(helper.make_graph(nodes, "g", [INPUT], [OUTPUT], tensors)).SerializeToString()


@pytest.mark.parametrize("what", UNFIT)
def test_inputs_of_an_operator_fit_each_other(what: str):
    """An operator whose inputs do not fit each other is refused by name, wherever it stands."""
    says = rf"(operator|ReduceMean).*{UNFIT[what].op_type}|a ReduceMean"
    for nodes in ([UNFIT[what]], _two(onnx.NodeProto.FromString(UNFIT[what].SerializeToString()))):
        with pytest.raises(ValueError, match=says):
            check_onnx_graph(_graph(nodes), {"x": (1, 4, 8, 8)}, {})


@pytest.mark.parametrize(
    ("weight", "more", "attributes"),
    [
        ("wide", [], {"transB": 1}),
        ("wide", [], {}),
        ("square", ["many"], {}),
        ("square", ["scalar"], {}),
        ("square", [], {"transA": 1}),
        ("many", [], {}),
    ],
)
def test_the_inner_sizes_of_a_classifier_are_equal(weight: str, more: list[str], attributes: dict[str, int]):
    """A Gemm of another number of features, or with another number of biases, is refused by name."""
    with pytest.raises(ValueError, match="operator Gemm"):
        check_onnx_graph(_graph([_op("Gemm", weight, *more, **attributes)]), {"x": (1, 4)}, {})


def not_opened(graph: object, threads: int) -> None:
    """Stands for an engine that must not see a graph."""
    pytest.fail("was opened")


@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_a_norm_of_more_numbers_than_channels_is_not_opened(name: str, exported: Path, tmp_path: Path):
    """One channel, a norm of 300,000 numbers and a classifier of as many features: no engine sees them."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[30] * 4),
        helper.make_node("BatchNormalization", ["c", *["many"] * 4], ["n"]),
        helper.make_node("ReduceMean", ["n", "sides"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "row"], ["y"]),
    ]
    tensors = [
        from_array(np.zeros(shape, np.float32), tensor)
        for tensor, shape in {"k": (1, 1, 1, 1), "many": (300_000,), "row": (300_000, 2)}.items()
    ]
    for constant, held in NUMBERS.items():
        data = np.array(held, np.int64).tobytes()
        tensors.append(helper.make_tensor(constant, onnx.TensorProto.INT64, [len(held)], data, raw=True))
    model = helper.make_model(helper.make_graph(nodes, "g", [INPUT], [OUTPUT], tensors)).SerializeToString()
    shard = _with_graph(load_shard(exported / "device0"), model, tmp_path)
    kind = replace(engines()[name], open_graph=f"{__name__}:not_opened")
    with pytest.raises(DeploymentError, match=r"\.onnx: refused: it has an operator BatchNormalization"):
        OnnxEngine(shard, kind=kind)


class Failing:
    """An engine's graph that fails as it runs, as onnxruntime's do, with an error of no class of ours."""

    def __init__(self, graph: object, threads: int) -> None:
        pass

    def __call__(self, inputs: object) -> list[np.ndarray]:
        raise RuntimeError("no memory")


@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_a_segment_that_fails_as_it_runs_is_an_error_of_ours(name: str, exported: Path):
    """Whatever an engine raises names the segment's file."""
    shard = load_shard(exported / "device0")
    engine = OnnxEngine(shard, kind=replace(engines()[name], open_graph=f"{__name__}:Failing"))
    segment, inputs = calls_of_a_pass(shard)[0]
    with pytest.raises(DeploymentError, match=rf"\.onnx: {name} cannot run this segment: RuntimeError: no memory"):
        engine.run(segment, inputs)


def test_torch_names_the_segment_that_fails(exported: Path):
    """What torch raises for an input of the wrong shape becomes an error that names the folder and the segment."""
    shard = load_shard(exported / "device0")
    segment, (array, *others) = calls_of_a_pass(shard)[0]
    with pytest.raises(
        DeploymentError, match=rf"{re.escape(str(shard.folder))}: torch cannot run segment '{segment}': "
    ):
        TorchEngine(shard).run(segment, [array[:, :0], *others])


def _with_graph(shard: Shard, model: bytes, folder: Path) -> Shard:
    for segment in shard.manifest.segments.values():
        path = folder / segment.files["onnxruntime"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model)
    return replace(shard, folder=folder)


@quick
@given(data=st.data())
def test_a_damaged_onnx_graph_is_read_or_refused(data: st.DataObject, exported: Path):
    """Whatever became of a graph's bytes, its shapes are worked out, or a ValueError says why not."""
    whole = next((exported / "device0/segments").glob("stem*.onnx")).read_bytes()
    with suppress(ValueError):
        check_onnx_graph(data.draw(damaged(whole, numbers)), {"x": (1, 1, 8, 8)}, {})


@pytest.mark.parametrize("kind", [1, 5], ids=["8 bytes", "4 bytes"])
def test_a_number_of_another_kind_is_not_read(kind: int):
    """Sizes in a field of a kind that ONNX has not there, which other readers pass over, are refused."""
    tensor = HUGE.SerializeToString() + bytes([1 << 3 | kind]) + b"\x01" * (8 if kind == 1 else 4)
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [INPUT], [OUTPUT]).SerializeToString()
    graph += bytes([5 << 3 | 2, len(tensor)]) + tensor
    model = bytes([7 << 3 | 2, len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph
    with pytest.raises(ValueError, match=r"a field of kind 1|a number with a point"):
        check_onnx_graph(model, {"x": (1, 1, 8, 8)}, {})


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (_op("Pad", "pads_even", "scalar", mode="constant"), (1, 4, 10, 10)),
        (_op("Slice", "number0", "number2", "number2"), (1, 4, 2, 8)),
        (_op("Concat", "x", axis=1), (1, 8, 8, 8)),
        (_op("Concat", "x", axis=-1), (1, 4, 8, 16)),
        (_op("Reshape", "sizes_all"), (1, 256)),
        (_op("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 0, 1]), (1, 4, 7, 8)),
    ],
)
def test_pieces_of_tensors_have_their_shapes(node: onnx.NodeProto, shape: tuple[int, ...]):
    """Padding, slices, joins and reshapes of each sample are admitted, with the shape that ONNX defines."""
    graph = _graph([node])
    assert check_onnx_graph(graph, {"x": (1, 4, 8, 8)}, {}) == {"y": shape}
