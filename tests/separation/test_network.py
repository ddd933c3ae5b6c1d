"""A separated network: all channels sent, it is the original; fewer, it is the original with masks on its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sepnas.nets.graph import GraphNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.nets.separated import separated_network, separated_weights
from sepnas.partition.graph import Graph, GraphOutput, GraphTensor
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule
from sepnas.plan.steps import Send
from sepnas.separation.builder import SeparatedGraphBuilder
from sepnas.separation.document import Separation
from sepnas.separation.masks import masks_of
from sepnas.separation.network import SeparatedGraph, separated_graph
from tests.separation.networks import MAKERS, Small, error, small

SHARES: tuple[Sequence[float], ...] = ((1, 1), (3, 1), (1, 2, 1), (1, 1, 1, 1))
EXACT = 1e-5
CASES = pytest.mark.parametrize("name", MAKERS)


def planned(found: SeparatedGraph, of: Small) -> torch.Tensor:
    """The answer of the plan in one process."""
    with torch.no_grad():
        network = separated_network(found, of.weights)
        [answer] = run_plan(schedule(found.plan()), lookup_of(network), {of.graph.inputs[0]: of.x}).values()
    return answer


def levels(of: Small, shares: Sequence[float]) -> list[Separation]:
    """Everything sent, half of what may be left out, and nothing."""
    every, none = of.separated(shares), of.separated(shares, 0)
    placement = every.placement(of.channels)
    most, least = every.payload_bytes(placement), none.payload_bytes(placement)
    exact = of.separated(shares, (most + least) / 2 / most)
    return [every, exact, none]


@CASES
@pytest.mark.parametrize("shares", SHARES)
def test_with_all_channels_it_is_the_network(name: str, shares: Sequence[float]) -> None:
    """In one graph and as a plan of its devices, to 1e-5 of the largest value; each device computes something."""
    of = small(name)
    found = separated_graph(of.graph, of.separated(shares))
    network = separated_network(found, of.weights)
    assert error(of.answers(found.graph, network.weights_by_name), of.answers()) <= EXACT
    assert error(planned(found, of), of.answers()) <= EXACT
    assert all(found.plan().segments)


@CASES
@pytest.mark.parametrize("shares", SHARES[1:3])
def test_with_fewer_channels_it_is_the_network_with_masks(name: str, shares: Sequence[float]) -> None:
    """Weights of channels that do not cross are zero, and nothing else differs; the plan sends the predicted bytes."""
    of = small(name)
    for separation in levels(of, shares):
        found, masks = separated_graph(of.graph, separation), masks_of(of.graph, separation)
        masked = {n: w * torch.from_numpy(masks[n]) if n in masks else w for n, w in of.weights.items()}
        assert error(planned(found, of), of.answers(weights=masked)) <= EXACT
        assert found.plan().payload_bytes() == separation.payload_bytes(of.placement(shares))


@pytest.mark.parametrize("wire", ["fp16", "int8", "int4"])
def test_bytes_are_predicted_in_each_wire_format(wire: str) -> None:
    """The closed form of the document is the plan's sum, headers of samples included."""
    of = small("residual")
    for share in (None, 0.3, 0):
        separation = of.separated((1, 1, 1), share, wire)
        plan = separated_graph(of.graph, separation).plan()
        assert plan.payload_bytes() == separation.payload_bytes(of.placement((1, 1, 1)))


def sends(plan: Plan) -> list[tuple[int, int, str]]:
    return [
        (rank, step.to, step.tensor) for rank, program in enumerate(plan.programs) for step in program
        if isinstance(step, Send) and step.to >= 0
    ]  # fmt: skip


def test_a_message_is_sent_once_for_each_crossing() -> None:
    """Two layers that read one tensor share its message, and the same channels for two devices are selected once."""
    of = small("dense")
    separation = of.separated((1, 1, 1), 0.5)
    plan = separated_graph(of.graph, separation).plan()
    assert len(sends(plan)) == len(separation.crossings)
    assert {(rank, to) for rank, to, _ in sends(plan)} <= {(each.source, each.destination) for each in
                                                           separation.crossings}  # fmt: skip


@pytest.mark.parametrize("name", ["image", "flat"])
def test_channels_that_lie_apart_are_selected_by_a_product(name: str) -> None:
    """Few runs of channels are sliced and joined; many are one layer of ones and zeros: the same values either way."""
    dims = {"image": (1, 12, 3, 3), "flat": (1, 12)}[name]
    whole = Graph(
        name="n", source="s", inputs=("x",), outputs=(GraphOutput(name="y", tensor="x"),), nodes=(), weights=(),
        tensors={"x": GraphTensor(axes="NCHW"[: len(dims)], dims=dims)},
    )  # fmt: skip
    x = torch.randn(dims)
    for places, operators in (
        ([3, 4, 5], ["slice"]),
        ([7, 8, 1], ["slice", "slice", "cat"]),
        ([0, 2, 4, 6, 11], ["conv" if len(dims) > 2 else "linear"]),
        (list(range(12)), []),
    ):
        made = SeparatedGraphBuilder(whole)
        graph = made.graph({"y": made.select("x", 1, np.array(places), 0)})
        assert [node.operator for node in graph.nodes] == operators
        found = GraphNetwork(graph, separated_weights(made.recipe_of(graph), {}))(x)
        assert isinstance(found, torch.Tensor)
        assert (found == x[:, places]).all()


def test_the_silent_network_needs_only_what_the_read_out_device_needs() -> None:
    """Without a budget, the classifier's input is all that crosses: four bytes for each channel of another device."""
    of = small("residual")
    separation = of.separated((1, 1, 1), 0)
    assert {each.destination for each in separation.crossings} == {0}
    assert separation.payload_bytes(of.placement((1, 1, 1))) == 4 * 16


def test_another_read_out_device_answers() -> None:
    """The scores are computed and sent by the chosen device."""
    from sepnas.separation.grouping import group, placed
    from sepnas.separation.separate import separation_of
    from sepnas.separation.spaces import groupable

    of = small("chain")
    grouping = group(of.channels, groupable(of.channels, 2), of.importance, (1, 1), read_out=1)
    separation = separation_of(placed(of.channels, grouping, 2, read_out=1), of.importance)
    found = separated_graph(of.graph, separation)
    assert [piece.device for port in found.plan().outputs for piece in port.pieces] == [1]
    assert error(planned(found, of), of.answers()) <= EXACT


def test_the_graph_is_a_document() -> None:
    """A separated graph is one like any other: it is the same after a round trip through its data."""
    for name in MAKERS:
        graph = separated_graph(small(name).graph, small(name).separated((1, 1), 0)).graph
        assert Graph.from_data(graph.to_data()) == graph
