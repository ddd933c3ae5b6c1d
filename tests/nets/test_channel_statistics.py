"""What is measured of channels on images: means, covariances, and what an error in a layer's output costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sepnas.nets.channel_statistics import measure_statistics
from sepnas.nets.trainable import TrainableGraph
from sepnas.separation.follow import channels_of
from sepnas.separation.statistics import Statistics
from sepnas.testing.graphs import Builder
from tests.separation.networks import MAKERS, Small, small


def measured(of: Small, *batches: Tensor, seed: int = 0) -> Statistics:
    return measure_statistics(of.channels, of.weights, [(each,) for each in batches], seed=seed)


@pytest.mark.parametrize("name", MAKERS)
def test_means_and_covariances_are_those_of_all_positions(name: str) -> None:
    """Of each tensor that layers mix, as numpy computes them, whatever the batches are."""
    of = small(name)
    images = of.images(5)
    found, parts = measured(of, images), measured(of, images[:2], images[2:])
    assert found.tensors.keys() == {layer.operand for layer in of.channels.mixing.values()}
    with torch.no_grad():
        tensors = TrainableGraph(of.graph, of.weights).eval().tensors((images,), list(found.tensors))
    for tensor, value in tensors.items():
        rows = value.movedim(of.channels.axis(tensor), 0).flatten(1).double().numpy()
        scale = float(np.square(rows).mean())
        for each in (found.of(tensor, len(rows)), parts.of(tensor, len(rows))):
            np.testing.assert_allclose(each.mean, rows.mean(1), rtol=1e-5, atol=1e-5 * scale**0.5)
            wanted = np.cov(rows, bias=True).reshape(len(rows), -1)
            np.testing.assert_allclose(each.covariance, wanted, rtol=1e-4, atol=1e-5 * scale)


def test_a_layer_by_hand() -> None:
    """A convolution that passes one channel on, doubles it and adds one: the second layer's input is known."""
    made = Builder(1, 2, 2)
    made.conv(2, 1)
    made.conv(3, 1)
    made.head(2)
    weight, bias = (made.nodes[0].inputs[role] for role in ("weight", "bias"))
    made.weights |= {weight: torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), bias: torch.tensor([0.0, 1.0])}
    image = torch.tensor([0.0, 2.0, 4.0, 6.0]).reshape(1, 1, 2, 2)  # mean 3, variance 5
    found = measured(Small(made.graph(), made.weights), image).of(made.nodes[0].outputs[0], 2)
    assert found.mean.tolist() == [3, 7]
    assert found.covariance.tolist() == [[5, 10], [10, 20]]


def classifier() -> Small:
    """Scores for three classes of a vector, by two fully connected layers without anything between."""
    torch.manual_seed(0)
    made = Builder(6)
    made.linear(4)
    made.linear(3)
    return Small(made.graph(), made.weights)


def fisher(of: Small, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The costs of errors in the hidden values and in the scores, by hand: half of the Fisher information."""
    hidden, scores = (node.inputs for node in of.graph.nodes)
    made = torch.nn.functional.linear(x, of.weights[hidden["weight"]], of.weights[hidden["bias"]])
    logits = torch.nn.functional.linear(made, of.weights[scores["weight"]], of.weights[scores["bias"]])
    p, weight = logits.double().softmax(1).numpy(), of.weights[scores["weight"]].double().numpy()
    informations = np.einsum("nk,kl->nkl", p, np.eye(3)) - np.einsum("nk,nl->nkl", p, p)
    of_hidden = np.einsum("ki,nkl,li->ni", weight, informations, weight)
    return of_hidden.mean(0) / 2, (p * (1 - p)).mean(0) / 2


def test_costs_are_half_of_the_fisher_information() -> None:
    """Of a linear softmax model, on average over answers that are drawn: in nats for a square error of 1."""
    of = classifier()
    x = of.images(20)
    found = measured(of, x.repeat(400, 1))
    for layer, wanted in zip(of.channels.mixing, fisher(of, x), strict=True):
        np.testing.assert_allclose(found.costs[layer], wanted, rtol=0.05)


def test_costs_predict_the_divergence() -> None:
    """A small error in a layer's output changes the answers by as many nats as its square times its cost."""
    of = classifier()
    x = of.images(2000, seed=1)
    costs = measured(of, x.repeat(4, 1)).costs
    network = TrainableGraph(of.graph, of.weights).eval()
    [hidden, _] = of.channels.mixing.values()
    bias, error = network.weight(hidden.node.inputs["bias"]), 0.05
    with torch.no_grad():
        before = network(x).double().log_softmax(1)
        for channel in range(4):
            found = []
            for sign in (1, -1):
                bias[channel] += sign * error
                after = network(x).double().log_softmax(1)
                bias[channel] -= sign * error
                found.append(float((before.exp() * (before - after)).sum(1).mean()))
            assert sum(found) / 2 == pytest.approx(costs[hidden.node.name][channel] * error**2, rel=0.1)


def test_costs_add_up_over_positions() -> None:
    """A map as the answer is the mean of normal distributions: each of its values costs half a nat."""
    made = Builder(3, 5, 4)
    made.conv(4, 1)
    made.conv(2, 1)
    of = Small(made.graph(), made.weights)
    found = measured(of, of.images(300)).costs
    np.testing.assert_allclose(found["conv1"], np.full(2, 20 / 2), rtol=0.1)
    weight = of.weights[made.nodes[1].inputs["weight"]].numpy()[:, :, 0, 0]
    np.testing.assert_allclose(found["conv0"], 20 / 2 * np.square(weight).sum(0), rtol=0.15)


def test_the_seed_draws_the_answers() -> None:
    """The same seed measures the same, bit for bit; another draws other answers, and leaves what is no cost."""
    of = classifier()
    first, again, other = (measured(of, of.images(20), seed=seed) for seed in (0, 0, 1))
    assert all((first.costs[name] == again.costs[name]).all() for name in of.channels.mixing)
    assert any((first.costs[name] != other.costs[name]).any() for name in of.channels.mixing)
    for name, each in first.tensors.items():
        assert (each.covariance == other.tensors[name].covariance).all()


def test_layers_behind_fixed_weights_have_costs() -> None:
    """A first layer that is never trained, such as a fixed filter, has a cost too."""
    of = small("chain")
    graph = of.graph.model_copy(update={"buffers": (of.graph.nodes[0].inputs["weight"],)})
    found, wanted = (
        measure_statistics(channels_of(each), of.weights, [(of.images(2),)]).costs for each in (graph, of.graph)
    )
    assert found.keys() == wanted.keys()
    assert all((found[name] == wanted[name]).all() for name in wanted)


def test_without_samples_nothing_is_measured() -> None:
    """Then channels are taken as independent, and layers as alike; the number of samples done is told."""
    of, done = small("chain"), list[int]()
    found = measure_statistics(of.channels, of.weights, [])
    assert not found.tensors
    assert not found.costs
    assert (found.of("conv0", 8).covariance == np.eye(8)).all()
    samples = [(of.images(2),), (of.images(3),)]
    measure_statistics(channels_of(of.graph), of.weights, samples, told=done.append)
    assert done == [2, 5]


def test_an_output_without_gradient_has_the_least_cost() -> None:
    """What images left silent may speak: a thousandth of the mean."""
    of = small("chain")
    layer = next(iter(of.channels.mixing.values()))
    statistics = Statistics({}, {layer.node.name: np.array([0.0, 2.0, 4.0, 2.0])})
    assert statistics.costs_of(layer, np.ones(4)).tolist() == [0.002, 2, 4, 2]


def test_no_output_costs_nothing() -> None:
    """Without measurements, or if all are zero, outputs without variance cost as those of average variance, or 1."""
    of = small("chain")
    layer = next(iter(of.channels.mixing.values()))
    for statistics in (Statistics(), Statistics({}, {layer.node.name: np.zeros(4)})):
        assert statistics.costs_of(layer, np.array([1.0, 3.0, 0.0, 0.0])).tolist() == [1 / 4, 1 / 12, 1 / 8, 1 / 8]
        assert statistics.costs_of(layer, np.zeros(4)).tolist() == [1 / 4] * 4
