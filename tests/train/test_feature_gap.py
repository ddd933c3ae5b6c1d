"""Feature maps of separated networks are compared with the original's, channel by channel, by the document alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from sepnas.errors import TrainingError
from sepnas.nets.separated import separated_weights
from sepnas.nets.trainable import TrainableGraph
from sepnas.separation.network import LocalTensor, map_parts
from sepnas.testing.graphs import Builder
from sepnas.train.feature_gap import FeatureGap, last_maps
from tests.separation.networks import MAKERS, Separated, Small, small

CPU = torch.device("cpu")
EXACT = 1e-4


def original(of: Small) -> TrainableGraph:
    return TrainableGraph(of.graph, of.weights).eval()


def student(found: Separated) -> TrainableGraph:
    return TrainableGraph(found.made.graph, separated_weights(found.made.recipe, found.of.weights)).eval()


def gap_of(found: Separated) -> float:
    network = student(found)
    gap = FeatureGap(network.graph, [original(found.of)], CPU, found.separation)
    return gap.answer(network, found.of.images(4))[1].item()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shares", [(1, 1), (1, 2, 1)])
def test_parts_of_an_exact_network_have_no_gap(name: str, shares: Sequence[float]) -> None:
    """All mixtures sent, each device's channels are the original's, in whatever order they lie."""
    assert gap_of(small(name).separated(shares)) <= EXACT


@pytest.mark.parametrize(
    ("name", "tiles"), [("chain", None), ("residual", None), ("separable", None), ("chain", "relu5")]
)
def test_what_is_not_sent_leaves_a_gap(name: str, tiles: str | None) -> None:
    """A silent network's maps differ from the original's, behind tiles too; with all messages none does."""
    of = small(name)
    assert gap_of(of.separated((1, 1, 1), 0, tiles=tiles, statistics=of.measured)) > 0.01
    assert gap_of(of.separated((1, 1, 1), tiles=tiles)) <= EXACT


@pytest.mark.parametrize("name", MAKERS)
def test_parts_are_known_from_the_document(name: str) -> None:
    """They have the names and the channels of the network as it was made, whatever it mixes."""
    of = small(name)
    found = of.separated((1, 2, 1), statistics=of.measured, exchange_points=2)
    parts = map_parts(of.graph, found.separation)
    assert parts.keys() >= set(last_maps(of.graph))
    for tensor, each in parts.items():
        made = [part for part in found.made.locals[tensor] if part.name in found.made.graph.tensors]
        assert [told(part) for part in each] == [told(part) for part in made]


def told(part: LocalTensor) -> tuple[str, list[int]]:
    return part.name, part.order.tolist()


def test_every_device_learns_from_its_maps() -> None:
    """The gap alone gives gradients to weights of each device."""
    of = small("chain")
    found = of.separated((1, 1, 1), 0, statistics=of.measured)
    network = student(found)
    gap = FeatureGap(network.graph, [original(of)], CPU, found.separation)
    gap.answer(network, of.images(4))[1].backward()
    learning = {name.rsplit("@", 1)[1] for name, x in network.named_parameters() if x.grad is not None and x.grad.any()}
    assert {name.split("~")[0] for name in learning} == {"0", "1", "2"}


def test_what_cannot_be_compared_is_refused() -> None:
    """Maps that all are in tiles, another network than the original, and a student that is not separated."""
    made = Builder(3, 8, 8)
    made.conv(8, 3)
    made.then("relu")
    made.conv(9, 6)
    made.head(5)
    tiled = Small(made.graph(), made.weights).separated((1, 1), tiles="relu1")
    with pytest.raises(TrainingError, match=r"have none of relu1: maps of tiled layers are exact; set it to 0, or"):
        gap_of(tiled)
    network, teacher = student(tiled), original(tiled.of)
    with pytest.raises(TrainingError, match="compares feature maps of the same names, and the teacher has none"):
        FeatureGap(network.graph, [teacher], CPU)
    with pytest.raises(TrainingError, match=r"network that was separated, which the teacher is not; .*digest"):
        FeatureGap(network.graph, [original(small("chain"))], CPU, tiled.separation)
