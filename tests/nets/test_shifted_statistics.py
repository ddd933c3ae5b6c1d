"""Statistics of batch norms in separated networks: their original's, moved by what separating changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sepnas.nets.crossings import crossings_of
from sepnas.nets.separated import separated_weights
from sepnas.nets.shifted_statistics import ShiftedStatistics
from sepnas.nets.trainable import STATISTICS, TrainableGraph, norms_of
from sepnas.separation.pieces import WeightPiece
from sepnas.testing.graphs import Builder
from tests.separation.networks import Separated, Small, small

SAMPLES = 2


def samples(of: Small, count: int = 4) -> list[tuple[Tensor, ...]]:
    """Batches unlike any that the statistics may be of: few images, far from zero."""
    return [(3 + 2 * of.images(count, seed),) for seed in range(SAMPLES)]


def adapted(found: Separated, given: Sequence[tuple[Tensor, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a separated network before and after its statistics are moved."""
    cut = separated_weights(found.made.recipe, found.of.weights)
    crossings = crossings_of(found.made.graph, found.made.plan())
    norms = ShiftedStatistics(found.of.graph, found.of.weights, given)
    return cut, norms.weights_of(found.made.graph, cut, found.made.recipe, crossings)


@pytest.mark.parametrize("tiles", [None, "hardswish2"])
def test_nothing_moves_where_nothing_is_lost(tiles: str | None) -> None:
    """With all mixtures sent, statistics stay what training left, on whatever images they are compared."""
    of = small("separable")
    cut, moved = adapted(of.separated((1, 1), None, statistics=of.measured, tiles=tiles), samples(of))
    assert cut.keys() == moved.keys()
    for name, before in cut.items():
        torch.testing.assert_close(moved[name], before, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("share", [0.1, 0])
def test_statistics_move_by_the_difference_of_both_networks(share: float) -> None:
    """The first lossy layer: means by that of the means, variances by their ratio, averaged over the batches."""
    of = small("chain")
    found = of.separated((1, 1), share, "int8", of.measured)
    cut, moved = adapted(found, samples(of))
    graph, crossings = found.made.graph, crossings_of(found.made.graph, found.made.plan())
    first, second = norms_of(of.graph)[:2]
    network, original = TrainableGraph(graph, moved, crossings).eval(), TrainableGraph(of.graph, of.weights).eval()
    norms = [each for each in norms_of(graph) if each.name.startswith(f"{second.name}@")]
    assert len(norms) == 2
    for node in norms:
        mean, variance = (cut[node.inputs[role]] for role in STATISTICS)
        places = found.made.recipe[node.inputs[STATISTICS[0]]]
        assert isinstance(places, WeightPiece)
        means, variances = [], []
        for inputs in samples(of):
            with torch.no_grad():
                now = network.tensors(inputs, [node.inputs["input"]])[node.inputs["input"]]
                then = original.tensors(inputs, [second.inputs["input"]])[second.inputs["input"]]
            then = then[:, places.places[0]]
            means.append(mean + now.mean((0, 2, 3)) - then.mean((0, 2, 3)))
            ratio = (now.var((0, 2, 3), correction=0) + 1e-5) / (then.var((0, 2, 3), correction=0) + 1e-5)
            variances.append(variance * ratio)
        torch.testing.assert_close(moved[node.inputs["running_mean"]], torch.stack(means).mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            moved[node.inputs["running_var"]], torch.stack(variances).mean(0), rtol=1e-3, atol=1e-4
        )
    assert not all(torch.equal(moved[name], cut[name]) for name in cut)
    untouched = [each for each in norms_of(graph) if each.name.startswith(f"{first.name}@")]
    for node in untouched:  # the first convolution reads the image, which all devices have
        for role in STATISTICS:
            torch.testing.assert_close(moved[node.inputs[role]], cut[node.inputs[role]], rtol=1e-3, atol=1e-4)


def twice_normed() -> Builder:
    """Two layers that share a batch norm, as a module that is called twice does."""
    made = Builder(3, 6, 6)
    made.conv(8, 1)
    norm = {role: made.weight(8) for role in ("weight", "bias", "running_mean", "running_var")}
    for _ in range(2):
        made.add("batch_norm", {"input": made.last, **norm}, eps=1e-5)
        made.conv(8, 1)
    made.head(4)
    return made


def test_statistics_of_several_layers_stay() -> None:
    """One set of statistics cannot follow two layers: it is left as it was, and no error comes of it."""
    torch.manual_seed(0)
    made = twice_normed()
    of = Small(made.graph(), made.weights)
    cut, moved = adapted(of.separated((1, 1), 0.1, statistics=of.measured), samples(of))
    assert all(torch.equal(moved[name], cut[name]) for name in cut)


def test_without_samples_weights_stay() -> None:
    """Nothing is measured, so nothing is known to move."""
    of = small("chain")
    cut, moved = adapted(of.separated((1, 1), 0.1), [])
    assert all(torch.equal(moved[name], cut[name]) for name in cut)
