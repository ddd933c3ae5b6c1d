"""The running statistics of batch norms, measured anew: for other messages, other weights, or another share of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from sepnas.nets.trainable import TrainableGraph

Batch = TypeVar("Batch")


class KeepsStatistics(Protocol):
    """A batch norm, or a graph with several. ``momentum`` None means the mean over all batches since a reset."""

    momentum: float | None

    def reset_running_stats(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


def layers_with_statistics(network: nn.Module) -> list[nn.BatchNorm2d | TrainableGraph]:
    """All layers of a network that keep running statistics."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | TrainableGraph)]


def recalibrate(layers: Sequence[KeepsStatistics], batches: Iterable[Batch], run: Callable[[Batch], object]) -> None:
    """Measure the statistics of ``layers``: the mean over all batches that ``run`` computes.

    The layers are left in evaluation, with the momentum that they had.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        with torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.train(False)
