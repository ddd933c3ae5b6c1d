"""Calibration of learned message scales from a network's activations, before training or instead of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sepnas.nets.exchange import through_levels
from sepnas.nets.planned import Watcher
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.shapes import Region
from sepnas.plan.steps import Send
from sepnas.plan.wire import LEVELS

_SHARES = [number / 50 for number in range(5, 51)]
"""Candidate positions of the highest level, as fractions of the greatest value."""
_MAX_VALUES = 1 << 20


@torch.no_grad()
def calibrate_scales(network: SeparableNetwork, images_BCHW: Tensor, names: Collection[str] | None = None) -> None:
    """Set the scales ``names`` (default: all) to minimise the squared error for these images.

    Images are normalised and on the network's device; a hundred are enough. One pass sets each scale before its first
    message, so what a device computes already includes the quantised messages before it. In training mode, batch norms
    use this batch's statistics, because an untrained network has no others. Nothing else changes.
    """
    with _statistics_kept(network):
        network.run(images_BCHW, watcher=_Calibration(network, tuple(network.log_scales) if names is None else names))


class _Calibration(Watcher):
    """Sets each scale by the largest region that is sent with it, when the first one is."""

    def __init__(self, network: SeparableNetwork, names: Collection[str]) -> None:
        self.log_scales, self.regions = network.log_scales, dict[str, Region]()
        for step in (step for program in network.plan.programs for step in program):
            if isinstance(step, Send) and step.scale and step.scale in names:
                known = self.regions.get(step.scale, step.region)
                self.regions[step.scale] = max(known, step.region, key=lambda region: region.num_values)

    def send(self, rank: int, step: Send, x: Tensor) -> None:
        region = self.regions.pop(step.scale, None) if step.scale else None
        if region is not None and step.scale:
            found = _best_step(x[region.slices], LEVELS[step.wire])
            self.log_scales[step.scale].copy_(found.log())


def _best_step(x_BCHW: Tensor, levels: int) -> Tensor:
    values = x_BCHW.float().flatten()
    values = values[:: -(-len(values) // _MAX_VALUES)]
    highest = values.max()
    if not highest > 0:
        return torch.ones_like(highest)  # all values are 0: any step will do
    steps = [share * highest / levels for share in _SHARES]
    errors = [(through_levels(values, step, levels) - values).square().mean() for step in steps]
    return steps[int(torch.stack(errors).argmin())]


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
