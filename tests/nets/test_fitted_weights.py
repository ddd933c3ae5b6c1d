"""Weights of separated networks, fitted to what the devices have beside the original."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sepnas.nets import fitted_weights
from sepnas.nets.crossings import crossings_of
from sepnas.nets.fitted_weights import FittedWeights
from sepnas.nets.separated import separated_weights
from sepnas.nets.trainable import STATISTICS, TrainableGraph, norms_of
from sepnas.separation.pieces import EstimatedBias, EstimatedInput, WeightPiece
from sepnas.testing.graphs import Builder
from tests.separation.networks import MAKERS, Separated, Small, small

SAMPLES = 2


def samples(of: Small, count: int = 4) -> list[tuple[Tensor, ...]]:
    """Batches unlike any that the statistics may be of: few images, far from zero."""
    return [(3 + 2 * of.images(count, seed),) for seed in range(SAMPLES)]


def fitted(found: Separated, given: Sequence[tuple[Tensor, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a separated network before and after they are fitted."""
    cut = separated_weights(found.made.recipe, found.of.weights)
    crossings = crossings_of(found.made.graph, found.made.plan())
    fits = FittedWeights(found.of.channels, found.of.weights, given)
    return cut, fits.of(found.made.graph, cut, found.made.recipe, crossings)


@pytest.mark.parametrize("tiles", [None, "hardswish2"])
def test_nothing_moves_where_nothing_is_lost(tiles: str | None) -> None:
    """With all mixtures sent, weights and statistics stay what training left, on whatever images they are compared."""
    of = small("separable")
    cut, now = fitted(of.separated((1, 1), None, statistics=of.measured, tiles=tiles), samples(of))
    assert cut.keys() == now.keys()
    for name, before in cut.items():
        torch.testing.assert_close(now[name], before, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("share", [0.1, 0])
def test_statistics_move_by_the_difference_of_both_networks(share: float) -> None:
    """Means move by that of the means of all images, variances by their ratio."""
    of = small("chain")
    found = of.separated((1, 1), share, "int8", of.measured)
    cut, now = fitted(found, samples(of))
    graph, crossings = found.made.graph, crossings_of(found.made.graph, found.made.plan())
    first, second = norms_of(of.graph)[:2]
    network, original = TrainableGraph(graph, now, crossings).eval(), TrainableGraph(of.graph, of.weights).eval()
    norms = [each for each in norms_of(graph) if each.name.startswith(f"{second.name}@")]
    assert len(norms) == 2
    images = (torch.cat([x for (x,) in samples(of)]),)
    for node in norms:
        places = found.made.recipe[node.inputs[STATISTICS[0]]]
        assert isinstance(places, WeightPiece)
        with torch.no_grad():
            has = network.tensors(images, [node.inputs["input"]])[node.inputs["input"]]
            had = original.tensors(images, [second.inputs["input"]])[second.inputs["input"]][:, places.places[0]]
        means, variances = (now[node.inputs[role]] for role in STATISTICS)
        mean, variance = (cut[node.inputs[role]] for role in STATISTICS)
        torch.testing.assert_close(means, mean + has.mean((0, 2, 3)) - had.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        ratio = (has.var((0, 2, 3), correction=0) + 1e-5) / (had.var((0, 2, 3), correction=0) + 1e-5)
        torch.testing.assert_close(variances, variance * ratio, rtol=1e-3, atol=1e-4)
    assert not all(torch.equal(now[name], cut[name]) for name in cut)
    untouched = [each for each in norms_of(graph) if each.name.startswith(f"{first.name}@")]
    for node in untouched:  # the first convolution reads the image, which all devices have
        for role in STATISTICS:
            torch.testing.assert_close(now[node.inputs[role]], cut[node.inputs[role]], rtol=1e-3, atol=1e-4)


def layer_errors(found: Separated, weights: dict[str, Tensor], given: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
    """The mean square errors of what layers that estimate their input make, on images."""
    graph, of = found.made.graph, found.of
    network = TrainableGraph(graph, weights, crossings_of(graph, found.made.plan())).eval()
    original = TrainableGraph(of.graph, of.weights).eval()
    errors = {}
    for node in graph.nodes:
        made = next(
            (each for name in node.inputs.values() if isinstance(each := found.made.recipe.get(name), EstimatedInput)),
            None,
        )
        if made is None:
            continue
        axis, errors[node.name] = made.layer.relation.axis, 0.0
        for inputs in given:
            with torch.no_grad():
                has = network.tensors(inputs, node.outputs)[node.outputs[0]]
                had = original.tensors(inputs, [made.layer.output])[made.layer.output]
            had = had.index_select(axis, torch.as_tensor(made.outputs))
            errors[node.name] += float((has - had).double().square().mean())
    return errors


@pytest.mark.parametrize("name", ["chain", "padded", "separable", "dense", "grouped"])
def test_layers_come_nearer_to_the_original(name: str) -> None:
    """With few bytes, on the images of the fit: the first layer that estimates, and all layers together."""
    of = small(name)
    found, given = of.separated((1, 1), 0.05, "int8", of.measured), samples(of, 16)
    cut, now = fitted(found, given)
    before, after = (layer_errors(found, weights, given) for weights in (cut, now))
    first = next(iter(before))
    assert after[first] < before[first]
    assert sum(after.values()) < sum(before.values())


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_network_is_fitted(name: str) -> None:
    """Whatever ties its channels, a network that is fitted has finite weights of the same shapes."""
    of = small(name)
    found = of.separated((1, 1), 0, statistics=of.measured)
    cut, now = fitted(found, samples(of))
    assert {name: x.shape for name, x in cut.items()} == {name: x.shape for name, x in now.items()}
    assert all(bool(x.isfinite().all()) for x in now.values())
    estimated = [name for name, each in found.made.recipe.items() if isinstance(each, EstimatedBias)]
    assert all(not torch.equal(now[name], cut[name]) for name in estimated)


def test_of_large_images_fewer_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short of memory, samples are taken evenly over all batches: the weights are those of these samples alone."""
    of = small("chain")
    found, given = of.separated((1, 1), 0.1, statistics=of.measured), samples(of, 5)
    taken = [(given[0][0][::3],), (given[1][0][1::3],)]  # images 0, 3, 6 and 9 of ten
    _, wanted = fitted(found, taken)
    each = 4 * sum(fitted_weights._needed_elements(graph) for graph in (of.graph, found.made.graph))
    monkeypatch.setattr(fitted_weights, "MEMORY_BYTES", 4 * each)
    _, now = fitted(found, given)
    for name, x in wanted.items():
        torch.testing.assert_close(now[name], x, rtol=1e-4, atol=1e-5, msg=name)


def test_of_one_image_only_statistics_move() -> None:
    """One image cannot say whether a fit holds on others."""
    of = small("chain")
    found = of.separated((1, 1), 0.1, statistics=of.measured)
    cut, now = fitted(found, samples(of, 1)[:1])
    changed = {name for name in cut if not torch.equal(now[name], cut[name])}
    assert changed
    assert changed <= {node.inputs[role] for node in norms_of(found.made.graph) for role in STATISTICS}


def viewed() -> Builder:
    """Two layers that read a tensor and its channels in another order, which devices have as one tensor."""
    made = Builder(3, 8, 8)
    made.conv(12, 3, padding=(1, 1))
    before = made.then("relu")
    left = made.conv(8, 1)
    made.add("reshape", {"self": before}, size=(1, 2, 6, 8, 8))
    made.then("permute", dims=(0, 2, 1, 3, 4))
    made.then("reshape", size=(1, 12, 8, 8))
    made.conv(8, 1)
    made.plus(left)
    made.head(5)
    return made


def test_views_of_a_tensor_have_estimates_of_their_own() -> None:
    """Channels that lie in another order in a view are not taken for those of its base."""
    torch.manual_seed(0)
    made = viewed()
    of = Small(made.graph(), made.weights)
    found, given = of.separated((1, 1), 0, statistics=of.measured), [(of.images(64, seed),) for seed in range(SAMPLES)]
    cut, now = fitted(found, given)
    before, after = (sum(layer_errors(found, weights, given).values()) for weights in (cut, now))
    assert after < before


def test_halves_are_of_images() -> None:
    """Where images have several rows each, those of one image stay together."""
    rows = torch.arange(12).reshape(6, 2)
    assert torch.equal(fitted_weights._every_second(rows, 3, 1), rows[2:4])
    assert torch.equal(fitted_weights._every_second(rows, 6, 1), rows[1::2])


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
    found = of.separated((1, 1), 0.1, statistics=of.measured)
    cut, now = fitted(found, samples(of))
    names = {node.inputs[role] for node in norms_of(found.made.graph) for role in STATISTICS}
    assert names
    assert all(torch.equal(now[name], cut[name]) for name in names)


def test_without_samples_weights_stay() -> None:
    """Nothing is measured, so nothing is known to move."""
    of = small("chain")
    cut, now = fitted(of.separated((1, 1), 0.1), [])
    assert all(torch.equal(now[name], cut[name]) for name in cut)
