"""Measures what a separation needs to know of a network's channels (:mod:`sepnas.separation.statistics`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sepnas.nets.trainable import TrainableGraph
from sepnas.separation.channels import ChannelMap
from sepnas.separation.statistics import ChannelStatistics, Statistics


def measure_statistics(
    channels: ChannelMap,
    weights: Mapping[str, Tensor],
    samples: Iterable[tuple[Tensor, ...]],
    *,
    seed: int = 0,
    told: Callable[[int], None] | None = None,
) -> Statistics:
    """The statistics of all tensors that layers mix, and the costs of errors in what these layers make.

    Each of ``samples`` has the inputs of the network ``(B, ...)``; without samples nothing is measured. Answers, by
    which costs are measured, are drawn from class scores ``(B, K)`` with ``seed``; other outputs are means of normal
    distributions. ``told`` hears how many samples are done.
    """
    # all weights are parameters, so that the outputs of all layers have gradients, also behind weights that are fixed
    network = TrainableGraph(channels.graph.model_copy(update={"buffers": ()}), weights).eval()
    generator, layers = torch.Generator().manual_seed(seed), list(channels.mixing.values())
    operands = list(dict.fromkeys(layer.operand for layer in layers))
    outputs, answers = [layer.output for layer in layers], [each.tensor for each in channels.graph.outputs]
    moments, costs = {name: _Moments() for name in operands}, [torch.zeros(()) for _ in layers]
    count = 0
    for inputs in samples:
        with torch.enable_grad():
            found = network.tensors(inputs, list(dict.fromkeys([*operands, *outputs, *answers])))
            loss = sum((_surprise(found[name], generator) for name in answers), torch.zeros(()))
            gradients = torch.autograd.grad(loss, [found[name] for name in outputs], allow_unused=True)
        for name in operands:
            moments[name].add(rows_of(found[name].detach(), channels.axis(name)))
        for place, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
            if gradient is not None:
                others = [axis for axis in range(gradient.dim()) if axis != layer.relation.axis]
                costs[place] = costs[place] + gradient.square().sum(others).double() / 2
        count += len(inputs[0])
        if told:
            told(count)
    if not count:
        return Statistics()
    return Statistics(
        {name: each.statistics() for name, each in moments.items()},
        {layer.node.name: (each / count).numpy() for layer, each in zip(layers, costs, strict=True) if each.any()},
    )


class _Moments:
    """Sums of channels and of their products, over all positions."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, torch.zeros(()), torch.zeros(0)

    def add(self, rows: Tensor) -> None:
        """``rows`` is ``(C, positions)``."""
        self.count += rows.shape[1]
        self.sums = self.sums + rows.sum(1)
        if not len(self.products):
            self.products = rows.new_zeros(len(rows), len(rows))
        self.products.addmm_(rows, rows.T)

    def statistics(self) -> ChannelStatistics:
        mean = (self.sums / self.count).numpy()
        products = (self.products / self.count).numpy()
        covariance = products - np.outer(mean, mean)
        np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 0))  # of constant channels, rounding is left
        return ChannelStatistics(mean, covariance)


def rows_of(x: Tensor, axis: int) -> Tensor:
    """The channels of a tensor along an axis as rows, ``(C, positions)``; products of many need double precision."""
    return x.movedim(axis, 0).reshape(x.shape[axis], -1).double()


def _surprise(answer: Tensor, generator: torch.Generator) -> Tensor:
    """The negative log-likelihood of answers that are drawn from the network's, up to a constant, over all samples."""
    if answer.dim() == 2 and answer.shape[1] > 1:
        drawn = torch.multinomial(answer.detach().float().softmax(1), 1, generator=generator)
        return functional.cross_entropy(answer.float(), drawn[:, 0], reduction="sum")
    noise = torch.randn(answer.shape, generator=generator)
    return (answer.float() * noise).sum()
