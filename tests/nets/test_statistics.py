"""The running statistics of batch norms, measured anew."""

from __future__ import annotations

import torch
from torch import nn

from sepnas.nets.statistics import recalibrate


def test_recalibration_measures_the_mean_over_all_batches() -> None:
    """Statistics measured anew are the means over the batches, and training goes on with the momentum of before."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.2)
    network = nn.Sequential(conv, norm).train()
    weights = {name: x.clone() for name, x in network.named_parameters()}
    parts = torch.randn(6, 3, 10, 10).split(2)
    network(parts[0])
    recalibrate([norm], parts, network)
    maps = [conv(part) for part in parts]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in maps]).mean(0))
    assert not norm.training
    assert norm.momentum == 0.2
    assert all(torch.equal(x, weights[name]) for name, x in network.named_parameters())
