"""LiteRT computes what onnxruntime computes from the same checked graphs, and reads no file of its own."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sepnas.deployment.engines.graph import SegmentGraph
from sepnas.deployment.engines.litert import LiteRtGraph
from sepnas.deployment.manifest import WEIGHTS_NAME
from sepnas.deployment.onnx_session import open_onnx, weight_name
from sepnas.errors import DeploymentError
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.choice import make_engine, pass_s
from sepnas.runtime.engines.onnx_check import read_onnx_graph
from sepnas.runtime.engines.shard import load_shard
from tests.deployment.test_damaged_files import damaged, numbers, quick
from tests.helpers_runtime import export_tiny, whole_logits

pytest.importorskip("ai_edge_litert")

CONVS = (
    {"strides": [1, 1], "pads": [1, 1, 1, 1]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"strides": [2, 1], "pads": [0, 1, 2, 0]},
    {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    {"group": 2},
    {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]},
)


def segment_graph(nodes, weights, shape):
    """A graph from ``x`` to ``y`` with its weights outside, as an export writes one."""
    initializers = []
    for index, weight in enumerate(weights):
        tensor = TensorProto(
            name=weight_name(index), data_type=TensorProto.FLOAT, dims=weight.shape, data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value=WEIGHTS_NAME)
        initializers.append(tensor)
    for name, number in (("zero", 0), ("six", 6)):
        initializers.append(helper.make_tensor(name, TensorProto.FLOAT, [], np.float32(number).tobytes(), raw=True))
    initializers.append(helper.make_tensor("sides", TensorProto.INT64, [2], np.array([2, 3]).tobytes(), raw=True))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("y", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    sizes = {weight_name(index): weight.shape for index, weight in enumerate(weights)}
    return SegmentGraph(Path("g.onnx"), data, weights, lambda shapes: read_onnx_graph(data, {"x": shapes[0]}, sizes))


def assert_alike(nodes, weights, shape):
    graph = segment_graph(nodes, weights, shape)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    (wanted,), (found,) = (opened(graph, 1)([x]) for opened in (open_onnx, LiteRtGraph))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def random_weights(*shapes):
    random = np.random.default_rng(1)
    return [random.random(shape, dtype=np.float32) + 0.1 for shape in shapes]


@pytest.mark.parametrize("numbers", CONVS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(numbers, bias):
    """Of any stride, padding, dilation and groups, with and without a bias."""
    weights = random_weights((8, 4 // numbers.get("group", 1), 3, 3), (8,))[: 1 + bias]
    names = [weight_name(index) for index in range(len(weights))]
    assert_alike([helper.make_node("Conv", ["x", *names], ["y"], **numbers)], weights, (1, 4, 9, 8))


def test_batch_norms_within_and_alone():
    """One goes into the convolution before it, one whose input is read twice stands for itself, and so does a ReLU."""
    weights = random_weights((4, 4, 1, 1), (4,), (4,), (4,), (4,))
    names = [weight_name(index) for index in range(5)]
    nodes = [
        helper.make_node("Conv", ["x", names[0]], ["a"]),
        helper.make_node("BatchNormalization", ["a", *names[1:]], ["b"], epsilon=1e-3),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *names[1:]], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    assert_alike(nodes, weights, (2, 4, 5, 5))


def test_additions_of_constants():
    """A constant with the axes of feature maps is added to them."""
    assert_alike([helper.make_node("Add", ["x", weight_name(0)], ["y"])], random_weights((1, 3, 4, 5)), (1, 3, 4, 5))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means(keepdims):
    """Over height and width, which stay as ones or go."""
    assert_alike([helper.make_node("ReduceMean", ["x", "sides"], ["y"], keepdims=keepdims)], [], (2, 3, 4, 5))


@pytest.mark.parametrize("side", [2, 3])
def test_max_pools(side):
    """Windows side by side; what is left over at the border is dropped."""
    numbers = {"kernel_shape": [side, side], "strides": [side, side]}
    assert_alike([helper.make_node("MaxPool", ["x"], ["y"], **numbers)], [], (2, 3, 7, 6))


@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_max_pools_with_padding(size):
    """Windows that overlap and reach beyond the border, as in the stem of a ResNet; padding is never the maximum."""
    numbers = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", weight_name(0)], ["a"]),
        helper.make_node("MaxPool", ["a"], ["y"], **numbers),
    ]
    assert_alike(nodes, [-weight for weight in random_weights((4, 3, 1, 1))], (2, 3, *size))


def test_relu6_within_and_alone():
    """Fused into a convolution, and by itself after a max-pool."""
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", weight_name(0)], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], **window),
        helper.make_node("Clip", ["c", "zero", "six"], ["y"]),
    ]
    assert_alike(nodes, [8 * weight for weight in random_weights((4, 3, 1, 1))], (1, 3, 4, 4))


@pytest.mark.parametrize("transposed", [0, 1])
def test_classifiers(transposed):
    """With the weight as torch has it, and the other way round."""
    weights = random_weights((5, 3) if transposed else (3, 5), (5,))
    node = helper.make_node("Gemm", ["x", weight_name(0), weight_name(1)], ["y"], transB=transposed)
    assert_alike([node], weights, (2, 3))


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5), "has operator 'Gemm' with factors"),
        (helper.make_node("Add", ["x", "row"], ["y"]), "adds tensors of different numbers of axes"),
        (helper.make_node("Clip", ["x", "six"], ["y"]), r"has operator 'Clip' with bounds \[6.0\], not 0 and 6"),
    ],
)
def test_what_it_does_not_run_is_named(node, says):
    """An operator that LiteRT is not given ends in an error with the file and the operator."""
    renamed = [{"w": weight_name(0), "row": weight_name(1)}.get(name, name) for name in node.input]
    node.input[:] = renamed
    graph = segment_graph([node], random_weights((4, 4), (4,)), (1, 2, 4, 4) if node.op_type == "Add" else (4, 4))
    x = np.zeros((1, 2, 4, 4) if node.op_type == "Add" else (4, 4), np.float32)
    with pytest.raises(DeploymentError, match=rf"g\.onnx: litert cannot run this segment: it {says}"):
        LiteRtGraph(graph, 1)([x])


def test_what_is_padded_is_bounded():
    """Padding that an output's size does not tell is refused before it is allocated."""
    node = helper.make_node("Conv", ["x", weight_name(0)], ["y"], pads=[40000] * 4, strides=[70000] * 2)
    with pytest.raises(DeploymentError, match=r"g\.onnx: .* it pads a tensor to 6,\d+,\d+,\d+ values"):
        LiteRtGraph(segment_graph([node], random_weights((1, 1, 3, 3)), (1, 1, 8, 8)), 1)(
            [np.zeros((1, 1, 8, 8), np.float32)]
        )


@quick
@given(data=st.data())
def test_a_damaged_graph_runs_or_is_refused(data, exported):
    """Whatever became of a graph's bytes, LiteRT computes what is left, or an error of ours says why not."""
    shard = load_shard(exported / "device0")
    name, segment = next(iter(shard.manifest.segments.items()))
    weights = [shard.first.weights[weight] for weight in segment.weights]
    sizes = {weight_name(index): weight.shape for index, weight in enumerate(weights)}
    spoiled = data.draw(damaged((shard.folder / segment.files["onnxruntime"]).read_bytes(), numbers))
    graph = SegmentGraph(Path(name), spoiled, weights, lambda shapes: read_onnx_graph(spoiled, shapes[0], sizes))
    with suppress(DeploymentError):
        LiteRtGraph(graph, 1)([np.zeros((1, 1, 8, 8), np.float32)])


@pytest.mark.slow
def test_it_reads_the_files_of_onnxruntime(network, tmp_path):
    """An export for LiteRT writes ONNX graphs, which onnxruntime runs too, and nothing else for it."""
    export_tiny(network, tmp_path / "d", ("litert",))
    shard = load_shard(tmp_path / "d/device0")
    assert shard.manifest.engines == ("onnxruntime", "litert")
    assert {path.suffix for path in (tmp_path / "d/device0/segments").iterdir()} == {".onnx"}
    assert make_engine("litert", shard).told == "litert"


def test_a_graph_is_looked_through_before_litert_gets_it(exported, tmp_path):
    """A graph with an operator that no segment has is refused as it is for onnxruntime."""
    shard = load_shard(exported / "device0")
    for segment in shard.manifest.segments.values():
        path = tmp_path / segment.files["onnxruntime"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((shard.folder / segment.files["onnxruntime"]).read_bytes().replace(b"Relu", b"Loop"))
    with pytest.raises(DeploymentError, match=r"segments/.*\.onnx: refused: it uses operator 'Loop'"):
        make_engine("litert", replace(shard, folder=tmp_path))


def test_nothing_is_said_while_it_is_made(exported, capfd):
    """LiteRT's own remarks do not get into a worker's log, and what others say afterwards does."""
    shard = load_shard(exported / "device0")
    pass_s(make_engine("litert", shard).engine, shard)
    os.write(2, b"said afterwards")
    assert capfd.readouterr().err == "said afterwards"


def test_workers_with_litert_answer_without_torch(network, exported):
    """Two worker processes with `--engine litert` give the network's answers, with no library of another engine."""
    launches = [Launch(options=("--engine", "litert"))] * 2
    with LocalWorkers(exported, 2, launches) as workers, Session(exported, workers.hosts) as session:
        for batch in (1, 3):
            images = random_batch(session.manifest, batch)
            np.testing.assert_allclose(session.infer(images), whole_logits(network, images), rtol=1e-4, atol=1e-4)
        for worker in workers._workers:
            maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
            assert "ai_edge_litert" in maps
            assert "libtorch" not in maps
            assert "onnxruntime" not in maps
