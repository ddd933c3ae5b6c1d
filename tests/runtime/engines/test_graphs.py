"""Graphs of segments that somebody else wrote: nothing in them runs, and none takes more than its share."""

from __future__ import annotations

import io
import json
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

from sepnas.errors import DeploymentError
from sepnas.runtime.engines.onnx_check import check_onnx_graph
from sepnas.runtime.engines.onnx_engine import OnnxEngine
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_archive import load_graph
from sepnas.runtime.engines.torch_engine import TorchEngine
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
    "which nothing makes": ([helper.make_node("Add", ["x", "z"], ["y"])], []),
    "other axes": ([helper.make_node("ReduceMean", ["x"], ["y"])], []),
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
