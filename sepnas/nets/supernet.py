"""The supernet: one set of weights that every policy of a search space shares.

A candidate is a policy laid over these weights. Batch norm statistics depend on what is merged where, so they are
measured anew for each candidate before it is judged (as in arXiv 1903.05134).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sepnas.nets.separable import SeparableResNeXt
from sepnas.spec.patterns import all_to_all, point
from sepnas.spec.policy import TransmissionPolicy
from sepnas.spec.space import SearchSpace


class Supernet(SeparableResNeXt):
    """The network of a space with all that any of its policies needs: every head, every pair's merge weight.

    ``forward(x_BCHW, policy)`` maps ``(B, in_channels, S, S)`` to ``(B, num_classes)``; without a policy it is the
    largest of the space.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space.architecture_of(space.largest()), all_heads=True)
        self.space = space
        if "weighted" in space.policy.merges:
            pairs = all_to_all(space.num_devices)
            points = tuple(point(block, pairs, merge="weighted") for block in space.blocks if pairs)
            self.add_merge_weights(TransmissionPolicy(points=points))


@contextmanager
def recalibrate_batch_norm(
    network: SeparableResNeXt, policy: TransmissionPolicy, images_BCHW: Tensor, batches: int = 1
) -> Iterator[None]:
    """Within the block the network is in evaluation mode, its batch norm statistics those of ``policy``.

    They are the plain mean over ``batches`` equal batches of the (normalised) images. Afterwards statistics and
    mode are as they were.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(layer, layer.momentum, [buffer.clone() for buffer in layer.buffers()]) for layer in layers]
    was_training = network.training
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average
        network.train()
        with torch.no_grad():
            for batch_BCHW in images_BCHW.chunk(batches):
                network(batch_BCHW, policy)
        network.eval()
        yield
    finally:
        network.train(was_training)
        for layer, momentum, buffers in kept:
            layer.momentum = momentum
            for buffer, value in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(value)
