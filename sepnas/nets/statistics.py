"""The running statistics of batch norms, measured anew: for other messages, other weights, or another share of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def recalibrate(layers: Sequence[nn.BatchNorm2d], batches: Iterable[Batch], run: Callable[[Batch], object]) -> None:
    """Measure the statistics of ``layers``: the mean over all batches that ``run`` computes.

    The layers are left in evaluation, with the momentum that they had.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches since the reset
        layer.train()
    try:
        with torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.train(False)
