"""Tiled layers: exact, with messages of the tiles where they end, and plans that keep their promises."""

from __future__ import annotations

import pytest
import torch

from sepnas.errors import SpecError
from sepnas.nets.crossings import crossings_of
from sepnas.nets.trainable import TrainableGraph
from sepnas.partition.graph import GraphOutput
from sepnas.plan.steps import CLIENT
from sepnas.separation.demands import exact_bytes
from sepnas.separation.document import Separation
from sepnas.separation.follow import channels_of
from sepnas.separation.network import separated_graph
from sepnas.separation.tiled_layers import tile_ends, tiled_layers_until
from sepnas.testing.graphs import Builder
from tests.separation.networks import Small, error, small

CUTS = {
    "chain": ("relu2", "relu5"),
    "separable": ("hardswish2", "hardswish6"),
    "padded": ("conv1",),
    "grouped": (),
    "residual": (),
    "squeezed": (),
    "attentive": (),
}
EXAMPLES = [(name, tensor) for name, cuts in CUTS.items() for tensor in cuts]


@pytest.mark.parametrize("name", CUTS)
def test_tiles_end_where_one_map_is_all_that_is_read_on(name: str) -> None:
    """Not within a residual block, whose input is added later, nor behind a mean or a softmax of channels; and
    not before the first layer, for which each device has the image."""
    assert tile_ends(small(name).channels) == CUTS[name]


def test_tiles_do_not_end_with_an_answer() -> None:
    """The read-out device answers with the whole of it, and no layer there joins the tiles."""
    graph = small("chain").graph
    early = GraphOutput(name="early", tensor="relu2")
    answered = graph.model_copy(update={"outputs": (*graph.outputs, early)})
    assert tile_ends(channels_of(answered)) == ()


def test_tiles_end_where_borders_are_free() -> None:
    """Not with a pixel shuffle, whose tiles have even borders, for those of its mixtures have any; but behind it."""
    made = Builder(3, 12, 12)
    made.conv(16, 3, padding=(1, 1), stride=(2, 2))
    made.then("pixel_shuffle", upscale_factor=2)
    made.conv(9, 3, padding=(1, 1))
    made.then("relu")
    made.conv(7, 1)
    made.head(5)
    of = Small(made.graph(), made.weights)
    [tensor] = tile_ends(of.channels)
    assert of.graph.makers[tensor].operator == "relu"
    found = of.separated((3, 1, 1), 0.3, statistics=of.measured, tiles=tensor)
    assert found.made.plan().payload_bytes() == found.payload_bytes


@pytest.mark.parametrize("shares", [(1, 1), (2, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize(("name", "tensor"), EXAMPLES)
def test_with_all_mixtures_it_is_the_network(name: str, tensor: str, shares: tuple[float, ...]) -> None:
    """In one process, and as the plan of its devices, which sends the bytes that the separation counts."""
    of = small(name)
    found = of.separated(shares, tiles=tensor)
    assert error(found.answers(), of.answers()) < 1e-5
    assert error(found.planned(), of.answers()) < 1e-5
    assert found.made.plan().payload_bytes() == found.payload_bytes


@pytest.mark.parametrize(("name", "tensor"), EXAMPLES)
def test_nothing_crosses_within_tiled_layers(name: str, tensor: str) -> None:
    """The first messages are those of the tiles of its last tensor; the client sends less than all to each device."""
    found, plain = small(name).separated((1, 1, 1, 1), tiles=tensor), small(name).separated((1, 1, 1, 1))
    plan = found.made.plan()
    first = {each.tensor for each in found.separation.crossings if each.source is None}
    assert first == {tensor}
    assert {each.tensor for each in found.separation.crossings} <= {each.tensor for each in plain.separation.crossings}
    assert plan.input_bytes() <= plain.made.plan().input_bytes()
    assert sum(each.source == CLIENT for each in plan.messages()) == 4


@pytest.mark.parametrize("level", [0.0, 0.3])
@pytest.mark.parametrize(("name", "tensor"), EXAMPLES)
def test_a_device_whose_tile_is_the_map_needs_no_message(name: str, tensor: str, level: float) -> None:
    """One device computes the network itself; a device too slow for a tile is sent its mixtures by the other."""
    of = small(name)
    alone = of.separated((1,), level, statistics=of.measured, tiles=tensor)
    assert error(alone.answers(), of.answers()) < 1e-5
    assert alone.payload_bytes == 0
    uneven = of.separated((1, 30), level, statistics=of.measured, tiles=tensor)
    [own] = [each for each in uneven.separation.crossings if each.source is None and each.destination == 1]
    assert own.width == len(own.channels) == len(uneven.placement.of_tensor(tensor))
    assert uneven.made.plan().payload_bytes() == uneven.payload_bytes
    assert error(uneven.planned(), uneven.answers()) < 1e-5


@pytest.mark.parametrize("wire", ["int8", "int4"])
@pytest.mark.parametrize("level", [0.3, 0.15])
@pytest.mark.parametrize(("name", "tensor"), EXAMPLES)
def test_tiles_are_rounded_in_training_as_on_their_way(name: str, tensor: str, level: float, wire: str) -> None:
    """Each other device's tile by itself, and one's own not at all; bytes keep to the budget and to the plan's."""
    of = small(name)
    found = of.separated((1, 1, 1), level, wire, of.measured, tiles=tensor)
    plan = found.made.plan()
    assert plan.payload_bytes() == found.payload_bytes <= level * exact_bytes(found.placement)
    crossings = crossings_of(found.made.graph, plan)
    assert any(each.regions for each in crossings.values())
    network = TrainableGraph(found.made.graph, found.network.weights_by_name, crossings).eval()
    for seed in (1, 2):
        x = of.images(2, seed)
        with torch.no_grad():
            assert error(network(x), found.planned(x)) < 1e-5


def test_tiles_that_cannot_end_so_are_refused() -> None:
    """The tensors with which it may are listed, with their sizes."""
    with pytest.raises(
        SpecError, match=r"cannot end with '\?'; they may with 'relu2' \(8x12x12\), 'relu5' \(12x12x12\)"
    ):
        tiled_layers_until(small("chain").channels, "?", (1, 1))
    with pytest.raises(SpecError, match="may with none"):
        tiled_layers_until(small("grouped").channels, "conv0", (1, 1))


def test_its_document_says_where_it_ends() -> None:
    """It round-trips; wrong shares and wrong senders are named."""
    of = small("chain")
    found = of.separated((2, 1, 1), 0.3, tiles="relu5").separation
    assert Separation.from_data(found.to_data()) == found
    data = found.to_data()
    with pytest.raises(SpecError, match="`tiles` has 2 shares for 3 devices"):
        Separation.from_data(data | {"tiles": {"tensor": "relu5", "shares": [1, 1]}})
    with pytest.raises(SpecError, match=r"`tiles.shares.0`: must be (greater than|above) 0"):
        Separation.from_data(data | {"tiles": {"tensor": "relu5", "shares": [0, 1, 1]}})
    with pytest.raises(SpecError, match="cannot end with 'relu9'"):
        separated_graph(of.graph, Separation.from_data(data | {"tiles": {"tensor": "relu9", "shares": [1, 1, 1]}}))
    one = next(place for place, each in enumerate(found.crossings) if each.source is None)
    for source, message in ((0, "is not one of device 0"), (None, "is not one of the tiles")):
        other = one if source == 0 else next(p for p, each in enumerate(found.crossings) if each.source is not None)
        crossings = list(found.crossings)
        crossings[other] = crossings[other].model_copy(update={"source": source})
        with pytest.raises(SpecError, match=message):
            separated_graph(of.graph, found.model_copy(update={"crossings": tuple(crossings)}))
