"""The document of a graph: what it holds, what is refused, and that nothing is lost on the way through a file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sepnas.errors import SpecError, VersionError
from sepnas.partition.graph import Graph, load_graph
from sepnas.plan.shapes import Region
from tests.limits import PROCESS_S


def document() -> dict[str, Any]:
    """A convolution with its activation, and what an opaque operator makes of it."""
    return {
        "format": "sepnas.graph",
        "version": 1,
        "name": "small",
        "source": "test",
        "inputs": ["x"],
        "outputs": [{"name": "output", "tensor": "relu"}, {"name": "places", "tensor": "topk.1"}],
        "nodes": [
            {
                "name": "conv", "operator": "conv", "inputs": {"input": "x", "weight": "features.weight"},
                "outputs": ["conv"], "attributes": {"padding": [1, 1], "stride": [2, 2]}, "module": "features",
            },
            {"name": "relu", "operator": "relu", "inputs": {"self": "conv"}, "outputs": ["relu"]},
            {
                "name": "topk", "operator": "aten.topk.default", "inputs": {"self": "relu"},
                "outputs": ["topk.0", "topk.1"], "attributes": {"k": 1},
            },
        ],
        "weights": ["features.weight"],
        "tensors": {
            "x": {"axes": "NCHW", "dims": [1, 3, 8, 8]},
            "features.weight": {"axes": "OIHW", "dims": [4, 3, 3, 3]},
            "conv": {"axes": "NCHW", "dims": [1, 4, 4, 4]},
            "relu": {"axes": "NCHW", "dims": [1, 4, 4, 4]},
            "topk.0": {"axes": "NCHW", "dims": [1, 4, 4, 1]},
            "topk.1": {"axes": "NCHW", "dims": [1, 4, 4, 1], "dtype": "int64"},
        },
    }  # fmt: skip


def changed(**values: Any) -> dict[str, Any]:
    return {**document(), **values}


def test_a_graph_survives_a_file_byte_for_byte(tmp_path: Path) -> None:
    """What is read and written again is the same file."""
    graph = Graph.from_data(document())
    first = graph.save(tmp_path / "graph.json").read_bytes()
    again = load_graph(tmp_path)
    assert again == graph
    assert again.save(tmp_path / "again.json").read_bytes() == first


def test_a_graph_knows_its_costs_and_its_opaque_operators() -> None:
    """MACs, weights, and the nodes that are kept whole."""
    graph = Graph.from_data(document())
    assert (graph.macs, graph.num_weights) == (4 * 4 * 4 * 27, 4 * 27)
    assert [node.name for node in graph.opaque_nodes] == ["topk"]
    assert graph.weights_of(graph.nodes[0]) == {"weight": "features.weight"}


def test_a_node_says_which_weights_a_region_needs() -> None:
    """Half of the output channels need half of the weight."""
    graph = Graph.from_data(document())
    node = graph.nodes[0]
    assert node.kind is not None
    needed = node.kind.input_region(graph.use(node), Region(((0, 1), (2, 4), (0, 4), (0, 4))))
    assert needed["weight"].ranges == ((2, 4), (0, 3), (0, 3), (0, 3))


def broken(change: Any) -> dict[str, Any]:
    data = copy.deepcopy(document())
    change(data)
    return data


def _cycle(data: dict[str, Any]) -> None:
    data["nodes"][0]["inputs"]["input"] = "relu"


def _late(data: dict[str, Any]) -> None:
    data["nodes"].reverse()


def _dangling(data: dict[str, Any]) -> None:
    data["nodes"][1]["inputs"]["self"] = "nothing"


def _other_shape(data: dict[str, Any]) -> None:
    data["tensors"]["conv"]["dims"] = [1, 4, 5, 5]


def _other_weight(data: dict[str, Any]) -> None:
    data["tensors"]["features.weight"]["dims"] = [4, 2, 3, 3]


def _unknown(data: dict[str, Any]) -> None:
    data["nodes"][1]["operator"] = "rleu"


def _no_shape(data: dict[str, Any]) -> None:
    del data["tensors"]["topk.0"]


def _too_many(data: dict[str, Any]) -> None:
    data["tensors"]["spare"] = {"axes": "N", "dims": [1]}


def _twice(data: dict[str, Any]) -> None:
    data["nodes"][1]["outputs"] = ["conv"]


def _no_output(data: dict[str, Any]) -> None:
    data["outputs"][0]["tensor"] = "logits"


def _huge(data: dict[str, Any]) -> None:
    data["tensors"]["x"]["dims"] = [1, 1 << 16, 1 << 10, 1 << 10]


def _attribute(data: dict[str, Any]) -> None:
    data["nodes"][0]["attributes"]["stride"] = [2, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cycle, "node 'conv' takes tensor 'relu' as `input`, which is made from what the node itself makes: a cycle"),
        (_late, "which the later node 'relu' makes; nodes stand in the order of computation"),
        (_dangling, "node 'relu' takes tensor 'nothing' as `self`, which nothing makes"),
        (_other_shape, r"node 'conv' \(conv\) makes 1x4x4x4, but is said to make 1x4x5x5"),
        (_other_weight, r"node 'conv' \(conv\): 4x2x3x3 is no weight in 1 groups for input 1x3x8x8"),
        (_unknown, "node 'relu' has operator 'rleu', which no sepnas knows"),
        (_no_shape, "tensor 'topk.0' has no shape"),
        (_too_many, "tensor 'spare' has a shape, but nothing makes it"),
        (_twice, "makes tensor 'conv', which is there already"),
        (_no_output, "output 'output' is tensor 'logits', which nothing makes"),
        (_huge, "tensors.x.*a tensor has at most 1,073,741,824"),
        (_attribute, "node 'conv'.*attribute `stride` must have 2 whole numbers"),
    ],
)
def test_graphs_that_cannot_be_computed_are_refused(change: Any, message: str) -> None:
    """The message names the node, the tensor and what is wrong."""
    with pytest.raises(SpecError, match=message):
        Graph.from_data(broken(change), "graph.json")


@pytest.mark.parametrize("data", [changed(spare=1), changed(inputs=[]), changed(nodes={}), changed(version=0)])
def test_other_documents_are_refused(data: Any) -> None:
    """Unknown fields, missing inputs and wrong types are errors of the file."""
    with pytest.raises(SpecError, match=r"graph.json: field"):
        Graph.from_data(data, "graph.json")


def test_a_newer_graph_is_refused() -> None:
    """A document of a later version says which sepnas reads it."""
    with pytest.raises(VersionError, match="update sepnas"):
        Graph.from_data(changed(version=2))


def test_a_graph_needs_no_torch() -> None:
    """Reading a graph loads no torch, so that a device can do it."""
    import subprocess
    import sys

    code = "import sys, sepnas.partition.graph; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PROCESS_S)


def test_attributes_of_any_type_survive(tmp_path: Path) -> None:
    """Numbers keep their type: 1 is not 1.0, nor true."""
    data = document()
    data["nodes"][2]["attributes"] = {"k": 1, "a": 1.0, "b": True, "c": "-inf", "d": [1, 2.0], "e": [[1, 2], [3, 4]]}
    written = json.loads(Graph.from_data(data).dumps())["nodes"][2]["attributes"]
    assert json.dumps(written) == json.dumps(data["nodes"][2]["attributes"])
