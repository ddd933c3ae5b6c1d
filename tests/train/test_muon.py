"""Muon, and the first convolution that whitens patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sepnas.errors import TrainingError
from sepnas.train.checkpoint import load_network, new_network
from sepnas.train.data import load_dataset
from sepnas.train.muon import Muon, muon_weights, orthogonalised
from sepnas.train.recipe import Recipe
from sepnas.train.whiten import whiten_first_convolution
from tests.train.test_train import BEST, LAST, RECIPE, same_tensors, small_architecture, small_data, train


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 24), st.integers(2, 24), st.integers(0, 1000))
def test_an_update_is_nearly_semi_orthogonal(count: int, rows: int, columns: int, seed: int) -> None:
    """All directions of a matrix that stand out of the noise get about the same length, tall or wide."""
    generator = torch.Generator().manual_seed(seed)
    low = min(rows, columns)
    u, _ = torch.linalg.qr(torch.randn(count, rows, low, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(count, columns, low, generator=generator))
    sizes = 0.5 + torch.rand(count, low, generator=generator)
    found = torch.linalg.svdvals(orthogonalised(u * sizes[:, None] @ v.mT))
    assert found.max() < 1.35
    assert found.min() > 0.5


def test_groups_of_a_convolution_are_matrices_of_their_own() -> None:
    """One grouped convolution learns as its groups would as separate convolutions."""
    torch.manual_seed(0)
    whole = nn.Conv2d(8, 12, 3, groups=2, bias=False)
    halves = [nn.Conv2d(4, 6, 3, bias=False) for _ in range(2)]
    for place, half in enumerate(halves):
        half.weight.data.copy_(whole.weight.data[6 * place : 6 * place + 6])
    grouped = Muon([{"params": [whole.weight], "groups": 2}], lr=0.1)
    separate = Muon([{"params": [half.weight for half in halves]}], lr=0.1)
    for _ in range(3):
        x = torch.randn(2, 8, 5, 5)
        for optimizer, loss in (
            (grouped, whole(x).square().sum()),
            (separate, sum(half(part).square().sum() for half, part in zip(halves, x.chunk(2, 1), strict=True))),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(whole.weight, torch.cat([half.weight for half in halves]), rtol=1e-4, atol=1e-5)


def test_weights_of_one_shape_do_not_mix_rates() -> None:
    """Two groups of parameters with weights of one shape keep their own learning rates."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.eye(4).reshape(4, 4, 1, 1)) for _ in range(2)]
    optimizer = Muon([{"params": [weights[0]], "lr": 0.0}, {"params": [weights[1]], "lr": 0.1}], lr=1.0)
    for weight in weights:
        weight.grad = torch.randn(4, 4, 1, 1)
    optimizer.step()
    torch.testing.assert_close(weights[0].data, torch.eye(4).reshape(4, 4, 1, 1))
    assert (weights[1].data - weights[0].data).norm() > 0.1


def test_muon_takes_dense_convolutions_behind_the_first() -> None:
    """The first convolution, depthwise ones and the classifier are left to another optimizer."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.BatchNorm2d(8),
        nn.Linear(8, 2),
    )
    assert muon_weights(network) == {"2.weight": 2}


def test_the_first_convolution_whitens() -> None:
    """Over the training images, even channels have variance 1 and no correlation; odd ones are their negatives."""
    data = load_dataset("digits")
    network = nn.Sequential(nn.Conv2d(1, 9, 3, bias=False))
    whiten_first_convolution(network, data)
    answers = network(data.normalise(data.train.images)).detach()
    torch.testing.assert_close(answers[:, 0:8:2], -answers[:, 1:8:2])
    assert not answers[:, 8].any()
    flat = answers[:, 0:8:2].transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat @ flat.T / flat.shape[1], torch.eye(4), rtol=0.02, atol=0.02)


def test_a_convolution_that_does_not_read_the_image_is_not_whitened() -> None:
    """A network for colour images names its channels and those of the data."""
    with pytest.raises(TrainingError, match=r"takes 3 channels in 1 groups, images of 'digits' have 1"):
        whiten_first_convolution(nn.Sequential(nn.Conv2d(3, 8, 3)), load_dataset("digits"))


MUON = Recipe.from_data(
    RECIPE.to_data() | {"optimizer": "muon", "learning_rate": 0.08, "other_learning_rate": 1e-3, "whiten_stem": True}
)


def test_a_stopped_run_with_muon_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Two optimizers with their own rates and states end where an unbroken run does."""
    train(tmp_path / "whole", MUON)
    for _ in range(4):
        train(tmp_path / "parts", MUON, resume=True, stop_after_s=0)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)
    assert same_tensors(tmp_path / "whole" / BEST, tmp_path / "parts" / BEST)


def test_a_whitened_stem_is_not_trained(tmp_path: Path) -> None:
    """After training, the first convolution is that of the images; those of the device that answers have moved."""
    train(tmp_path, MUON)
    trained, first = load_network(tmp_path), new_network(small_architecture(), 1)
    whiten_first_convolution(first, small_data())
    same = {name for name, x in first.named_parameters() if torch.equal(x, dict(trained.named_parameters())[name])}
    assert "stem.layer.conv.weight" in same
    assert not any(name.startswith("parts.0.") and name.endswith("conv.weight") for name in same)


def test_muon_needs_convolutions(tmp_path: Path) -> None:
    """A network without any is refused with the optimizer to take."""
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(TrainingError, match="no convolution that Muon can train; use 'adamw'"):
        train(tmp_path, MUON, network=network)
