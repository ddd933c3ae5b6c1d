"""`sepnas import FILE.onnx`: networks of other frameworks, and what such a file must not do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sepnas import api
from sepnas.errors import ImportFailedError
from sepnas.importing.source import find_network
from sepnas.nets.graph import load_graph_network

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")
needs_converter = pytest.mark.skipif(find_spec("onnx2pytorch") is None, reason="the extra `onnx` is not installed")


@pytest.fixture(scope="module")
def model() -> bytes:
    """A small network in the newest operators: a stride, groups, a mean whose axes lie in a tensor, a classifier."""
    draw = np.random.default_rng(0)
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    weights = {
        "first": draw.standard_normal((8, 3, 3, 3)) / 5, "second": draw.standard_normal((8, 2, 3, 3)) / 4,
        "last": draw.standard_normal((8, 5)), "sides": np.array([-1, -2]), "flat": np.array([-1, 8]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c", "sides"], ["d"], keepdims=1),
        helper.make_node("Reshape", ["d", "flat"], ["e"]),
        helper.make_node("MatMul", ["e", "last"], ["scores"]),
    ]
    stored = [
        numpy_helper.from_array(x if x.dtype == np.int64 else x.astype(np.float32), name) for name, x in weights.items()
    ]
    image = helper.make_tensor_value_info("image", kind.FLOAT, ["n", 3, 16, 16])
    scores = helper.make_tensor_value_info("scores", kind.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "small", [image], [scores], stored)
    found: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return found


def written(path: Path, data: bytes, change: Callable[[Any], None] | None = None) -> str:
    """A file of the model, changed."""
    found = onnx.ModelProto.FromString(data)
    if change:
        change(found)
    path.write_bytes(found.SerializeToString())
    return str(path)


@needs_converter
def test_an_onnx_file_is_imported(model: bytes, tmp_path: Path) -> None:
    """It computes what onnxruntime computes, of one sample of a dynamic batch, with the file's parameters counted."""
    path = written(tmp_path / "small.onnx", model)
    imported = api.import_network(path, tmp_path / "out")
    assert imported.deviation <= 1e-5
    assert imported.graph.opaque_nodes == ()
    assert imported.graph.num_parameters == 8 * 27 + 8 * 18 + 40
    x = torch.randn(1, 3, 16, 16)
    session = onnxruntime.InferenceSession(path)
    [wanted] = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(load_graph_network(tmp_path / "out")(x).numpy(), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ImportFailedError, match="brings its own weights; leave --weights out"):
        api.import_network(path, tmp_path / "other", weights=tmp_path / "w.pt")


@needs_converter
@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_files_of_torchs_own_exporter_are_imported(name: str, tmp_path: Path) -> None:
    """Networks of torchvision come back with all operators known, splits and shuffled channels too."""
    found = find_network(f"torchvision:{name}")
    assert found.module is not None
    torch.onnx.export(found.module.eval(), (torch.zeros(1, 3, 224, 224),), tmp_path / "m.onnx", dynamo=True)
    imported = api.import_network(str(tmp_path / "m.onnx"), tmp_path / "out")
    assert imported.deviation <= 1e-5
    assert imported.graph.opaque_nodes == ()


def moved(model: Any, location: str, folder: Path) -> None:
    """Move the largest weight to another file."""
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    (folder / "data.bin").write_bytes(b"head" + tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location, offset=4, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")


@needs_converter
def test_weights_are_read_from_files_of_the_same_folder(model: bytes, tmp_path: Path) -> None:
    """A weight that lies in another file is found there."""
    whole = written(tmp_path / "whole.onnx", model)
    parts = written(tmp_path / "parts.onnx", model, lambda each: moved(each, "data.bin", tmp_path))
    one, other = find_network(whole).module, find_network(parts).module
    assert one is not None
    assert other is not None
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(one(x), other(x))


@needs_converter
@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "sub/../../secret.bin", "link.bin", "", "pipe"])
def test_weights_elsewhere_are_not_read(location: str, model: bytes, tmp_path: Path) -> None:
    """Neither absolute paths, nor paths or links out of the folder, nor pipes."""
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    home = tmp_path / "home"
    home.mkdir()
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.mkfifo(home / "pipe")
    path = written(home / "m.onnx", model, lambda each: moved(each, location, home))
    with pytest.raises(
        ImportFailedError, match=r"m.onnx: the weight .* (only files of the same folder|cannot be read)"
    ):
        find_network(path)


@needs_converter
def test_files_that_are_no_networks_for_one_sample_are_refused(model: bytes, tmp_path: Path) -> None:
    """Each is named with what is wrong in it."""

    def batch_of_four(found: Any) -> None:
        found.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    def of_another_domain(found: Any) -> None:
        found.graph.node[0].domain = "com.example"

    def of_whole_numbers(found: Any) -> None:
        found.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64

    def without_operators(found: Any) -> None:
        del found.graph.node[:]

    for change, message in (
        (batch_of_four, "has a batch of 4; export it for one sample"),
        (of_another_domain, r"operators that are not ONNX's own: com\.example\.Conv; import the network from which"),
        (of_whole_numbers, "a damaged ONNX file|is no float32 tensor"),
        (without_operators, "no ONNX file, or one without operators"),
    ):
        with pytest.raises(ImportFailedError, match=rf"m.onnx: .*{message}"):
            find_network(written(tmp_path / "m.onnx", model, change))
    for data in (b"noise" * 100, model[: len(model) // 2], b""):
        (tmp_path / "n.onnx").write_bytes(data)
        with pytest.raises(ImportFailedError, match=r"n.onnx: (no ONNX file|a damaged ONNX file)"):
            find_network(str(tmp_path / "n.onnx"))


def test_without_the_converter_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ImportFailedError, match=r"is read by onnx2pytorch; get it with: pip install 'sepnas\[onnx\]'"):
        find_network(str(tmp_path / "m.onnx"))
