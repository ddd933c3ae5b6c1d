"""Calibration of learned message scales from a network's activations, before training or instead of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepnas.nets.exchange import through_levels
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.wire import LEVELS
from sepnas.separable.layers import block_channels

_SHARES = [number / 50 for number in range(5, 51)]
"""Candidate positions of the highest level, as fractions of the greatest value."""
_MAX_VALUES = 1 << 20


@dataclass(frozen=True)
class _Scale:
    """The step of the messages that carry up to ``channels`` of a block's channels."""

    name: str
    channels: int
    levels: int


@torch.no_grad()
def calibrate_scales(network: SeparableNetwork, images_BCHW: Tensor, names: Collection[str] | None = None) -> None:
    """Set the scales ``names`` (default: all) to minimise the squared error for these images.

    Images are normalised and on the network's device; a hundred are enough. One pass sets the scales block by block, so
    each block's input already includes the quantised messages before it. In training mode, batch norms use this batch's
    statistics, because an untrained network has no others. Nothing else changes.
    """
    with _statistics_kept(network), ExitStack() as hooks:
        for (after, source), scales in _scales_of(network, names).items():

            def calibrate(_: nn.Module, __: Any, output_BCHW: Tensor, scales: list[_Scale] = scales) -> None:
                for scale in scales:
                    step = _best_step(output_BCHW[:, : scale.channels], scale.levels)
                    network.log_scales[scale.name].copy_(step.log())

            block: nn.Module = network.parts[source][after]  # type: ignore[index]
            hooks.callback(block.register_forward_hook(calibrate).remove)
        network(images_BCHW)


def _scales_of(network: SeparableNetwork, names: Collection[str] | None) -> dict[tuple[int, int], list[_Scale]]:
    """The scales, keyed by block and by the device that computes the scaled tensor."""
    architecture, places = network.architecture, dict[tuple[int, int], list[_Scale]]()
    for point in network.policy.points:
        channels = [block_channels(architecture, rank, point.after) for rank in range(architecture.num_devices)]
        sent: dict[tuple[str, int, int], int] = {}
        for transfer in point.transfers:
            name = transfer.scale_name(point.after)
            if name and (names is None or name in names):
                key = name, transfer.source, LEVELS[transfer.wire]
                crossing = transfer.num_channels(channels[transfer.source], channels[transfer.destination])
                sent[key] = max(crossing, sent.get(key, 0))
        for (name, source, levels), most in sent.items():
            places.setdefault((point.after, source), []).append(_Scale(name, most, levels))
    return places


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
