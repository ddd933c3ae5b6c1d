"""A separated network: all mixtures sent, it is the original; fewer, its layers compute with the best estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sepnas.nets.channel_statistics import measure_statistics
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.separated import separated_weights
from sepnas.nets.trainable import TrainableGraph
from sepnas.partition.graph import Graph, GraphOutput, GraphTensor
from sepnas.plan.plan import Plan
from sepnas.plan.steps import Send
from sepnas.plan.wire import WIRE_FORMATS
from sepnas.separation.builder import SeparatedGraphBuilder
from sepnas.separation.channels import ChannelMap
from sepnas.separation.document import CrossingData
from sepnas.separation.grouping import group, placed
from sepnas.separation.importance import weight_of
from sepnas.separation.mixtures import Arrival, known_to
from sepnas.separation.relations import MixingLayer
from sepnas.separation.separate import separation_of
from sepnas.separation.spaces import groupable
from sepnas.separation.statistics import Statistics
from sepnas.testing.graphs import SMALL_GRAPHS, Builder
from tests.separation.networks import MAKERS, Separated, Small, error, small

SHARES: tuple[Sequence[float], ...] = ((1, 1), (3, 1), (1, 2, 1), (1, 1, 1, 1))
EXACT = 1e-5
CASES = pytest.mark.parametrize("name", MAKERS)


@CASES
@pytest.mark.parametrize("shares", SHARES)
def test_with_all_mixtures_it_is_the_network(name: str, shares: Sequence[float]) -> None:
    """In one graph and as a plan of its devices, to 1e-5 of the largest value; each device computes something."""
    found = small(name).separated(shares)
    assert error(found.answers(), small(name).answers()) <= EXACT
    assert error(found.planned(), small(name).answers()) <= EXACT
    assert all(found.made.plan().segments)


@CASES
def test_with_all_mixtures_of_measured_channels_it_is_the_network(name: str) -> None:
    """However little the images tell of the channels' covariances: mixtures and biases change, the answers do not."""
    found = small(name).separated((1, 2, 1), statistics=small(name).measured)
    assert error(found.answers(), small(name).answers()) <= EXACT


@pytest.mark.parametrize("name", ["chain", "squeezed", "gated"])
def test_one_image_changes_no_answer(name: str) -> None:
    """With all mixtures it is the network, also if covariances of what is pooled are nothing but rounding."""
    torch.manual_seed(0)
    made = SMALL_GRAPHS[name]() if name in SMALL_GRAPHS else None
    of = small(name) if made is None else Small(made.graph(), made.weights)
    measured = measure_statistics(of.channels, of.weights, [(100 * of.images(1),)])
    assert error(of.separated((1, 1), statistics=measured).answers(), of.answers()) <= EXACT


def test_a_layer_that_images_left_dead_may_speak() -> None:
    """A layer without activation or gradient on the images is computed exactly on others, with all mixtures."""
    made = Builder(3, 6, 6)
    torch.manual_seed(0)
    made.conv(6, 1)
    made.then("relu")
    made.conv(6, 1)
    made.head(4)
    made.weights[made.nodes[0].inputs["weight"]].abs_()
    made.weights[made.nodes[0].inputs["bias"]].fill_(-1.0)
    of = Small(made.graph(), made.weights)
    measured = measure_statistics(of.channels, of.weights, [(-of.images(2).abs(),)])
    measured.costs.pop("conv2")  # as of a layer that is saturated behind
    found = of.separated((1, 1), statistics=measured)
    images = 3 * of.images(4).abs()
    with torch.no_grad():
        wanted = TrainableGraph(of.graph, of.weights).eval()(images)
    assert error(found.planned(images), wanted) <= EXACT


@pytest.mark.parametrize("share", [None, 0])
def test_what_nothing_reads_leaves_an_input(share: float | None) -> None:
    """A device that has none of a layer's input, and reads it with zeros, still computes."""
    of = small("shuffled")
    weights = dict(of.weights)
    for node in of.graph.nodes:
        if node.operator == "conv" and node.inputs["input"] != "image":
            weights[node.inputs["weight"]] = torch.zeros_like(weights[node.inputs["weight"]])
    zeros = Small(of.graph, weights)
    assert error(zeros.separated((1,) * 5, share).answers(), zeros.answers()) <= EXACT


def levels(name: str, shares: Sequence[float], measured: bool) -> list[Separated]:
    """Everything sent, half of what may be left out, and nothing."""
    of, statistics = small(name), small(name).measured if measured else None
    every, none = (of.separated(shares, share, statistics=statistics) for share in (None, 0))
    half = (every.payload_bytes + none.payload_bytes) / 2 / every.payload_bytes
    return [every, of.separated(shares, half, statistics=statistics), none]


@CASES
@pytest.mark.parametrize("measured", [False, True], ids=["assumed", "measured"])
def test_the_plan_computes_what_the_graph_computes(name: str, measured: bool) -> None:
    """With any mixtures, the devices' answer is that of the graph in one process; they send the predicted bytes."""
    for found in levels(name, (1, 2, 1), measured):
        assert error(found.planned(), found.answers()) <= 1e-6
        assert found.made.plan().payload_bytes() == found.payload_bytes


@pytest.mark.parametrize("wire", WIRE_FORMATS)
@pytest.mark.parametrize("name", ["residual", "squeezed"])
def test_bytes_are_predicted_in_each_wire_format(name: str, wire: str) -> None:
    """The closed form of the document is the plan's sum, headers of samples included."""
    for share in (None, 0.3, 0):
        found = small(name).separated((1, 1, 1), share, wire)
        assert found.made.plan().payload_bytes() == found.payload_bytes


def computed(found: Separated, images: Tensor) -> Mapping[str, Tensor]:
    """Each tensor of the separated graph, by its name."""
    network = TrainableGraph(found.made.graph, found.network.weights_by_name).eval()
    with torch.no_grad():
        return network.tensors((images,), [name for node in network.graph.nodes for name in node.outputs])


def two_layers(kind: str = "padded") -> Small:
    """A layer makes correlated channels, which a second one reads: all that is grouped."""
    torch.manual_seed(0)
    made = Builder(12, 6, 6)
    made.conv(12, 1)
    if kind == "transposed":
        made.add("conv_transpose", {"input": made.last, "weight": made.weight(12, 12, 2, 2)}, stride=(2, 2))
    else:
        made.conv(12, 1 if kind == "pointwise" else 3, padding=(int(kind == "padded"),) * 2)
    made.head(4)
    return Small(made.graph(), made.weights)


@pytest.mark.parametrize("share", [0.4, 0])
@pytest.mark.parametrize("kind", ["pointwise", "unpadded"])
def test_a_layer_computes_with_what_its_device_estimates(kind: str, share: float) -> None:
    """On each device, its outputs are the original layer's of the estimate of all channels, bias included."""
    of = two_layers(kind)
    images = of.images(20)
    measured = measure_statistics(of.channels, of.weights, [(images,)])
    found = of.separated((1, 1), share, statistics=measured)
    assert bool(found.mixtures) == (share > 0)
    layer: MixingLayer = of.channels.mixing["conv1"]
    tensors, weight = computed(found, images), torch.from_numpy(weight_of(layer, of.arrays)).float()
    with torch.no_grad():
        maps = TrainableGraph(of.graph, of.weights).tensors((images,), ["conv0"])["conv0"]
    for device in (0, 1):
        own, outputs = (found.placement.own(name, device) for name in ("conv0", "conv1"))
        sent = [each for each in found.separation.crossings if (each.tensor, each.destination) == ("conv0", device)]
        arrivals = [Arrival(np.array(each.channels), found.mixtures[each.tensor, 1 - device, device]) for each in sent]
        estimate = known_to(found.placement, measured, "conv0", device).estimate(arrivals)
        assert estimate.offset.any()
        known = [maps[:, own]]
        known += [torch.einsum("kc,bchw->bkhw", tensor_of(a.mixtures), maps[:, a.channels]) for a in arrivals]
        guessed = torch.einsum("cz,bzhw->bchw", tensor_of(estimate.matrix), torch.cat(known, 1))
        guessed = guessed + tensor_of(estimate.offset)[:, None, None]
        wanted = torch.nn.functional.conv2d(guessed, weight[outputs], of.weights[layer.node.inputs["bias"]][outputs])
        assert error(tensors[f"conv1@{device}"], wanted) <= EXACT


@pytest.mark.parametrize("kind", ["pointwise", "padded"])
def test_messages_are_centred_where_nothing_is_padded(kind: str) -> None:
    """Over the images that were measured, mixtures have means of zero; padding with zeros would then be no zero."""
    of = two_layers(kind)
    images = of.images(20)
    found = of.separated((1, 1), 0.4, statistics=measure_statistics(of.channels, of.weights, [(images,)]))
    tensors = computed(found, images)
    sent = [node.name for node in found.made.graph.nodes if ".sent" in node.name]
    assert sent
    means = torch.cat([tensors[name].mean((0, 2, 3)) for name in sent])
    assert bool(means.abs().max() <= 1e-4) == (kind == "pointwise")


def tensor_of(array: np.ndarray | None) -> Tensor:
    assert array is not None
    return torch.from_numpy(array).float()


def squared_errors(found: Separated, images: Tensor) -> Tensor:
    """The mean square errors in the outputs of the second of two layers, at each place, summed over channels."""
    of = found.of
    [_, name, *_] = of.channels.mixing
    with torch.no_grad():
        wanted = TrainableGraph(of.graph, of.weights).tensors((images,), [name])[name]
    tensors, parts = computed(found, images), list[Tensor]()
    for device in range(found.separation.num_devices):
        wrong = tensors[f"{name}@{device}"] - wanted[:, found.placement.own(name, device)]
        parts.append(wrong.square().mean(0).sum(0))
    return torch.stack(parts).sum(0)


def test_estimates_hold_at_the_border() -> None:
    """Where a layer reads padding, its error is no larger than within: padding is zero on each device too."""
    of = two_layers()
    measured = measure_statistics(of.channels, of.weights, [(of.images(20),)])
    squares = squared_errors(of.separated((1, 1), 0.2, statistics=measured), of.images(20, seed=5))
    inside = squares[1:-1, 1:-1]
    assert (squares.sum() - inside.sum()) / 20 <= 1.2 * inside.mean()


@pytest.mark.parametrize("share", [0.4, 0])
@pytest.mark.parametrize("kind", ["padded", "transposed"])
def test_padding_counts_as_much_as_it_is_read(kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all places, errors are less than those of estimates that hold within, or of estimates without constants."""
    errors = []
    for padding in (None, 0.0, 1.0):
        if padding is not None:
            monkeypatch.setattr(ChannelMap, "padding_share", lambda channels, tensor, padding=padding: padding)
        of = two_layers(kind)
        measured = measure_statistics(of.channels, of.weights, [(of.images(20),)])
        found = of.separated((1, 1), share, statistics=measured)
        errors.append(float(squared_errors(found, of.images(20, seed=5)).sum()))
    assert errors[0] < min(errors[1:])


@pytest.mark.parametrize("share", [0.2, 0.35, 0.6])
def test_mixtures_leave_less_error_than_as_many_channels(share: float) -> None:
    """In a layer's output, on images that were not measured; channels are those of the greatest importance."""
    of = two_layers()
    measured = replace(measure_statistics(of.channels, of.weights, [(of.images(20),)]), costs={})
    found = of.separated((1, 1), share, statistics=measured)
    assert any(each.mixtures for each in found.separation.crossings)
    crossings = tuple(best_channels(found, each) for each in found.separation.crossings)
    other = replace(
        found, separation=found.separation.model_copy(update={"crossings": crossings}), mixtures={},
    )  # fmt: skip
    assert other.payload_bytes == found.payload_bytes
    images = of.images(20, seed=5)
    assert squared_errors(found, images).sum() < 0.9 * squared_errors(other, images).sum()


def best_channels(found: Separated, crossing: CrossingData) -> CrossingData:
    """The message with as many channels instead of mixtures."""
    [layer] = found.of.channels.readers[crossing.tensor]
    rows = found.of.importance[layer.node.name][found.placement.own(layer.output, crossing.destination)]
    worth = rows[:, list(crossing.channels)].sum(0)
    taken = np.sort(np.argsort(-worth)[: crossing.width])
    return crossing.model_copy(update={"channels": tuple(crossing.channels[i] for i in taken), "mixtures": 0})


def test_estimates_from_images_leave_less_error() -> None:
    """For the same bytes, what devices know from images brings the layers closer to the original's."""
    of = two_layers()
    measured = measure_statistics(of.channels, of.weights, [(of.images(20),)])
    images = of.images(20, seed=5)
    found = (of.separated((1, 1), 0.2, statistics=each) for each in (None, measured))
    blind, seeing = (float(squared_errors(each, images).sum()) for each in found)
    assert seeing < 0.5 * blind


def sends(plan: Plan) -> list[tuple[int, int, str]]:
    return [
        (rank, step.to, step.tensor) for rank, program in enumerate(plan.programs) for step in program
        if isinstance(step, Send) and step.to >= 0
    ]  # fmt: skip


def test_a_message_is_sent_once_for_each_crossing() -> None:
    """Two layers that read one tensor share its message, and the same channels for two devices are selected once."""
    of = small("dense")
    found = of.separated((1, 1, 1), 0.5)
    separation, plan = found.separation, found.made.plan()
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
    found = of.separated((1, 1, 1), 0)
    assert {each.destination for each in found.separation.crossings} == {0}
    assert found.payload_bytes == 4 * 16


def test_another_read_out_device_answers() -> None:
    """The scores are computed and sent by the chosen device."""
    of = small("chain")
    grouping = group(of.channels, groupable(of.channels, 2), of.importance, (1, 1))
    placement = placed(of.channels, grouping, 2, read_out=1)
    separation, thinned = separation_of(placement, of.arrays)
    found = Separated(of, placement, separation, thinned.mixtures, Statistics())
    assert [piece.device for port in found.made.plan().outputs for piece in port.pieces] == [1]
    assert error(found.planned(), of.answers()) <= EXACT


def test_the_graph_is_a_document() -> None:
    """A separated graph is one like any other: it is the same after a round trip through its data."""
    for name in MAKERS:
        graph = small(name).separated((1, 1), 0).made.graph
        assert Graph.from_data(graph.to_data()) == graph
