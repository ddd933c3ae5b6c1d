"""Weights that differ from place to place: the way networks are initialised would hide errors of a split."""

from __future__ import annotations

import torch
from torch import nn

SMALL = 0.1
"""Standard deviation of what takes the place of zeros, and the least size of scales."""
_STATISTICS = ("running_mean", "running_var")


@torch.no_grad()
def vary(module: nn.Module, seed: int = 0) -> None:
    """Change parameters and statistics whose values are all equal: heads and last norms of zeros, norms of ones, scales
    of 1e-6. With these, whole branches add nothing, and a wrong region of a weight has the right values."""
    generator = torch.Generator().manual_seed(seed)
    statistics = [x for name, x in module.named_buffers() if name.endswith(_STATISTICS)]
    for x in (*module.parameters(), *statistics):
        if not x.is_floating_point() or x.numel() < 2 or bool((x != x.flatten()[0]).any()):
            continue
        if float(x.flatten()[0]) == 0:
            x.add_(SMALL * torch.randn(x.shape, generator=generator))
        else:
            around = x.clamp_min(SMALL) if float(x.flatten()[0]) > 0 else x
            x.copy_(around * (0.75 + 0.5 * torch.rand(x.shape, generator=generator)))
