"""Learning rates of one-dimensional weights: how far these step, alone and beside other factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sepnas.nets.separable import SeparableNetwork
from sepnas.train.checkpoint import new_network
from sepnas.train.muon import muon_weights
from sepnas.train.optimize import Optimization
from sepnas.train.recipe import Recipe
from tests.train.test_train import small_architecture, small_data

PLAIN: dict[str, Any] = {
    "epochs": 1, "learning_rate": 0.01, "schedule": "cosine", "weight_decay": 0.01, "decay_norms": True,
}  # fmt: skip
RATE = 8.0


def a_network() -> SeparableNetwork:
    """A network with norms, biases, a weighted merge and a learned scale, in double precision."""
    policy = small_architecture().policy.written_in("int4", "learned")
    return new_network(small_architecture(policy=policy.to_data()), 1).double()


def steps_of(changes: dict[str, Any], rates: dict[str, float] | None = None) -> dict[str, Tensor]:
    """How far the first step of a training moves each weight that the loss reaches."""
    network, split = a_network(), small_data().train
    optimization = Optimization(network, Recipe.from_data(PLAIN | changes), 10, rates=rates)
    before = {name: x.detach().clone() for name, x in network.named_parameters()}
    logits = network(small_data().normalise(split.images).double())
    optimization.step(nn.functional.cross_entropy(logits, split.labels))
    return {name: x.detach() - before[name] for name, x in network.named_parameters() if x.grad is not None}


def factor_of(name: str, step: Tensor) -> float:
    """The factor that ``norm_rate`` means for a weight."""
    return RATE if step.ndim <= 1 and not name.startswith("log_scales.") else 1.0


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw", "adamw"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_one_dimensional_weights_step_further(optimizer: str, decay_norms: bool) -> None:
    """By the factor: norms, biases and merges; matrices and learned scales step as without it."""
    changes = {"optimizer": optimizer, "decay_norms": decay_norms}
    plain, fast = (steps_of(changes | {"norm_rate": rate}) for rate in (1.0, RATE))
    assert {name.split(".")[0] for name in plain} == {"stem", "parts", "heads", "merges", "log_scales"}
    assert plain.keys() == fast.keys()
    for name, step in plain.items():
        torch.testing.assert_close(fast[name], factor_of(name, step) * step, rtol=1e-6, atol=1e-12, msg=name)


def test_other_factors_are_multiplied() -> None:
    """A layer's own factor, such as that of a new head, holds for its matrix; its bias has both."""
    head = {"heads.0.classifier.weight": 0.5, "heads.0.classifier.bias": 0.5}
    plain, fast = steps_of({}), steps_of({"norm_rate": RATE}, head)
    assert head.keys() <= plain.keys()
    for name, step in plain.items():
        factor = factor_of(name, step) * head.get(name, 1.0)
        torch.testing.assert_close(fast[name], factor * step, rtol=1e-6, atol=1e-12, msg=name)


def test_beside_muon_it_multiplies_the_other_rate() -> None:
    """Muon's weights step as without it, or by a layer's own factor; AdamW's by `other_learning_rate` times both."""
    changes = {"optimizer": "muon", "other_learning_rate": 1e-3}
    muon = muon_weights(a_network())
    own = {next(iter(muon)): 0.25, "heads.0.classifier.bias": 0.5}
    plain, fast = steps_of(changes), steps_of(changes | {"norm_rate": RATE}, own)
    slow = steps_of(changes | {"learning_rate": 0.25 * PLAIN["learning_rate"]})
    assert own.keys() < plain.keys()
    for name, step in plain.items():
        if name in muon:
            assert torch.equal(fast[name], (slow if name in own else plain)[name])
        else:
            factor = factor_of(name, step) * own.get(name, 1.0)
            torch.testing.assert_close(fast[name], factor * step, rtol=1e-6, atol=1e-12, msg=name)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step"])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_the_rate_that_is_shown_is_that_of_matrices(schedule: str, optimizer: str) -> None:
    """Whatever the factor of norms, the learning rate of a step is the recipe's."""
    milestones = (1,) if schedule == "step" else ()
    changes = {"epochs": 2, "schedule": schedule, "milestones": milestones, "optimizer": optimizer}
    shown = []
    for rate in (1.0, RATE):
        network = a_network()
        recipe = Recipe.from_data(PLAIN | changes | {"norm_rate": rate})
        optimization = Optimization(network, recipe, 3)
        shown.append([])
        for _ in range(6):
            shown[-1].append(optimization.learning_rate)
            optimization.step(sum((x.sum() for x in network.parameters()), torch.zeros(())))
    assert shown[0] == pytest.approx(shown[1])
