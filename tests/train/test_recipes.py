"""The recipe's switches: what each does, and that a run with it goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from sepnas.errors import SpecError
from sepnas.train.checkpoint import LAST, load_network, new_network
from sepnas.train.evaluate import accuracy
from sepnas.train.mixing import Mixing
from sepnas.train.optimize import Optimization
from sepnas.train.recipe import RECIPES, Augmentation, Recipe, RecipeChanges
from tests.train.test_train import same_tensors, small_architecture, small_data, train

SMALL = Recipe(epochs=3, batch_size=17, learning_rate=0.05, label_smoothing=0.1, augmentation=Augmentation(flip=True))
SWITCHES: dict[str, dict[str, Any]] = {
    "sgdw": {"optimizer": "sgdw", "weight_decay": 0.05},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.05},
    "norms": {"decay_norms": False},
    "norm-rate": {"norm_rate": 4.0},
    "norm-rate-adamw": {"optimizer": "adamw", "learning_rate": 0.01, "norm_rate": 4.0, "decay_norms": False},
    "norm-rate-muon": {"optimizer": "muon", "learning_rate": 0.08, "norm_rate": 4.0, "schedule": "cosine"},
    "growing": {"first_size": 0.5},
    "ema": {"ema_decay": 0.9},
    "mixup": {"mixup": 0.4},
    "both": {"mixup": 0.8, "cutmix": 1.0},
    "all": {"optimizer": "adamw", "learning_rate": 0.01, "decay_norms": False, "ema_decay": 0.9, "cutmix": 1.0},
}


def switched(name: str) -> Recipe:
    return Recipe.from_data(SMALL.to_data() | SWITCHES[name])


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """A run that stopped after each epoch ends with the tensors of an unbroken one, its average among them."""
    recipe = switched(name)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, recipe)
    for _ in range(recipe.epochs):
        train(stopped, recipe, resume=True, stop_after_s=0)
    assert same_tensors(whole / LAST, stopped / LAST)
    train(tmp_path / "plain", SMALL)
    assert not same_tensors(whole / LAST, tmp_path / "plain" / LAST)


def test_switches_that_are_off_are_not_written() -> None:
    """A run that began before there were any resumes: its recipe reads the same."""
    later = {"decay_norms", "ema_decay", "mixup", "cutmix", "norm_rate", "first_size"}
    assert not later & SMALL.to_data().keys()
    for name, switch in SWITCHES.items():
        assert switched(name).to_data().items() >= switch.items()


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    """The best weights are the average's, and so is what the network ends with; the raw weights are kept to go on."""
    network, data = new_network(small_architecture(), 1), small_data()
    result = train(tmp_path, switched("ema"), network=network)
    assert accuracy(load_network(tmp_path), data.val, data) == result.best_accuracy
    kept = load_file(tmp_path / LAST)
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept[f"ema/{name}"])
    assert any(not torch.equal(kept[name], kept[f"ema/{name}"]) for name in network.state_dict())


@pytest.mark.parametrize(
    ("epochs", "said"), [(200, None), (151, None), (150, "it falls 2 of 3 times"), (10, "it never falls")]
)
def test_milestones_after_the_end_are_told_of(epochs: int, said: str | None) -> None:
    """The paper's recipe with fewer epochs than it has milestones for says what that means."""
    told = RECIPES["paper"].changed("paper", epochs=epochs).remark()
    assert (told is None) if said is None else (said in (told or ""))


@pytest.mark.parametrize("optimizer", ["sgdw", "adamw"])
def test_decoupled_decay_shrinks_weights_without_a_gradient(optimizer: str) -> None:
    """A step along a zero gradient multiplies by 1 - rate * decay, but for norms where they do not decay."""
    layer = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    recipe = Recipe.from_data(
        {"epochs": 1, "optimizer": optimizer, "learning_rate": 0.5, "weight_decay": 0.1, "decay_norms": False}
        | {"schedule": "cosine"}
    )
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    Optimization(layer, recipe, 10).step(sum((p.sum() * 0 for p in layer.parameters()), torch.zeros(())))
    for name, value in layer.named_parameters():
        shrunk = 0.95 if value.ndim > 1 else 1.0
        torch.testing.assert_close(value.detach(), shrunk * before[name])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 9),
    ways=st.sampled_from([(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)]),
    smoothing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**31),
)
def test_mixed_labels_are_the_shares_of_what_is_seen(
    batch: int, ways: tuple[float, float], smoothing: float, seed: int
) -> None:
    """Of images that show nothing but their class, a mixed one's mean is that of its labels, before smoothing."""
    mixing = Mixing(Recipe(epochs=1, mixup=ways[0], cutmix=ways[1], label_smoothing=smoothing), num_classes=4)
    labels = torch.arange(batch) % 4
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    state = np.random.get_state()[1].tolist()
    mixed, targets = mixing(images.clone(), labels, torch.Generator().manual_seed(seed))
    assert np.random.get_state()[1].tolist() == state
    torch.testing.assert_close(targets.sum(1), torch.ones(batch))
    shares = (targets - smoothing / 4) / (1 - smoothing)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0), atol=1e-4, rtol=1e-4)
    again, _ = mixing(images.clone(), labels, torch.Generator().manual_seed(seed))
    assert torch.equal(mixed, again)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("epochs", 1.5), ("learning_rate", float("nan")), ("device_dropout", 2), ("flip", 1)],
)
def test_changes_are_checked_when_they_are_made(name: str, value: object) -> None:
    """A change outside its range is refused by name, before any recipe is read."""
    with pytest.raises(SpecError, match=f"`{name}` must be"):
        RecipeChanges(**{name: value})
