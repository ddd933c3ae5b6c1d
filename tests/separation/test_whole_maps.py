"""A wide layer behind a flattened map is separated as a convolution over the whole map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sepnas import api
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.separated import shaped_as
from sepnas.nets.trainable import load_trainable
from sepnas.partition.graph import load_graph
from sepnas.separation import whole_maps
from sepnas.separation.network import map_parts
from sepnas.separation.whole_maps import reading_whole_maps
from sepnas.testing.graphs import Builder
from tests.importing.test_separate import error, imported
from tests.separation.networks import Small, small


@pytest.fixture
def wide() -> Iterator[None]:
    """Layers are wide from some hundred channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_maps, "MAX_FLATTENED", 100)
        yield


def test_the_convolution_computes_what_the_layer_computes(wide: None) -> None:
    """Its weights are the layer's, in another shape; the flattened map is gone."""
    of = small("chain")
    made = reading_whole_maps(of.graph)
    operators = [node.operator for node in made.nodes]
    assert (operators.count("conv"), operators.count("linear"), operators.count("reshape")) == (4, 1, 1)
    assert [made.tensors[name].dims for name in made.weights if made.tensors[name].dims[0] == 16] == [
        (16, 10, 4, 4),
        (16,),
    ]
    images = of.images(3)
    found = GraphNetwork(made, shaped_as(made, of.weights)).eval()(images)
    torch.testing.assert_close(found, GraphNetwork(of.graph, of.weights).eval()(images), rtol=1e-5, atol=1e-5)
    assert made.macs == of.graph.macs


def test_other_layers_stay() -> None:
    """Those that read fewer channels, or a map that was pooled to a single position, are as they were."""
    for name in ("chain", "dense", "separable"):
        assert reading_whole_maps(small(name).graph) is small(name).graph


def test_a_map_that_others_read_flattened_stays_too(wide: None) -> None:
    """Only what nothing reads any more is left out."""
    made = Builder(3, 12, 12)
    made.conv(8, 3)
    flat = made.then("reshape", size=(1, 800))
    first = made.linear(6)
    made.last = flat
    made.then("relu")
    made.add("add", {"self": first, "other": made.linear(6)})
    graph = reading_whole_maps(made.graph())
    assert [node.operator for node in graph.nodes].count("linear") == 1
    assert flat in graph.tensors
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    found = GraphNetwork(graph, shaped_as(graph, made.weights)).eval()(images)
    torch.testing.assert_close(found, GraphNetwork(made.graph(), made.weights).eval()(images), rtol=1e-5, atol=1e-5)


def test_such_a_network_is_separated(wide: None, tmp_path: Path) -> None:
    """With all channels it is the network; with fewer bytes messages mix the map's channels."""
    of: Small = small("chain")
    network = imported(of, tmp_path / "network")
    images = of.images(4)
    whole = api.separate(network, tmp_path / "whole", devices=2)
    with torch.no_grad():
        answers = load_trainable(network)(images)
        assert error(load_trainable(tmp_path / "whole")(images), answers) <= 1e-5
    assert whole.deviation <= 1e-5
    fewer = api.separate(network, tmp_path / "fewer", devices=2, budget=0.2)
    assert fewer.payload_bytes <= 0.2 * fewer.exact_bytes
    assert load_graph(tmp_path / "fewer").outputs[0].name == of.graph.outputs[0].name
    parts = map_parts(load_graph(network), fewer.separation)
    assert parts
    assert set(parts) <= set(load_graph(network).tensors)
