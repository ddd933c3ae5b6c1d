"""A wide layer behind a flattened map is separated as a convolution over the whole map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sepnas import api
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.separated import shaped_as
from sepnas.nets.trainable import load_trainable
from sepnas.partition.graph import Graph, load_graph
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
        for name in ("MAX_FLATTENED", "MAX_SUMMED"):
            patch.setattr(whole_maps, name, 100)
        yield


def test_the_convolution_computes_what_the_layer_computes(wide: None) -> None:
    """Its weights are the layer's, in another shape; the flattened map is gone."""
    of = small("chain")
    made = reading_whole_maps(of.graph, 2)
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


def flat(outputs: int, pooled: bool = False, between: str = "") -> Graph:
    """A layer of so many outputs that reads a flattened map of eight channels."""
    made = Builder(3, 12, 12)
    made.conv(8, 3)
    if pooled:
        made.then("adaptive_avg_pool2d", output_size=(1, 1))
    made.then("reshape", size=(1, math.prod(made.dims())))
    if between:
        made.then(between)
    made.linear(outputs)
    made.then("relu")
    made.linear(4)
    return made.graph()


def test_only_layers_that_gain_by_it_are_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow ones stay; so do those with fewer outputs on a device than positions, unless they are far too wide."""

    def changed(graph: Graph, most: int, most_summed: int) -> bool:
        monkeypatch.setattr(whole_maps, "MAX_FLATTENED", most)
        monkeypatch.setattr(whole_maps, "MAX_SUMMED", most_summed)
        return reading_whole_maps(graph, 2) is not graph

    few, many, pooled = flat(200), flat(201), flat(201, pooled=True)
    assert [changed(many, most, most) for most in (800, 799)] == [False, True]
    assert [changed(few, 799, most) for most in (800, 799)] == [False, True]
    assert not changed(pooled, 1, 1)
    assert not changed(flat(201, between="relu"), 1, 1)
    monkeypatch.undo()
    assert reading_whole_maps(small("chain").graph, 2) is small("chain").graph


def test_a_map_that_others_read_flattened_stays(wide: None) -> None:
    """It would be sent twice, as a map and flattened."""
    made = Builder(3, 12, 12)
    made.conv(8, 3)
    both = made.then("reshape", size=(1, 800))
    one = made.linear(6)
    made.last = both
    made.then("relu")
    made.add("add", {"self": one, "other": made.linear(6)})
    graph = made.graph()
    assert reading_whole_maps(graph, 2) is graph


def test_channels_that_lie_along_another_axis_stay(wide: None) -> None:
    """A map whose channels are last is flattened in another order."""
    made = Builder(3, 12, 12)
    made.conv(8, 3)
    made.then("permute", dims=(0, 2, 3, 1))
    made.then("reshape", size=(1, 800))
    made.linear(6)
    graph = made.graph()
    assert reading_whole_maps(graph, 2) is graph


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
