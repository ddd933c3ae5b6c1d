"""The supernet: one set of weights that every network and policy of a search space shares.

A subnet takes the first blocks of each stage, the first groups, and the first channels of each group of the largest
network, as slimmable networks do (arXiv 1812.08928, 1908.09791). Batch norms keep no running statistics here, because
the statistics depend on the merges: an extracted network has its own measured (arXiv 1903.05134).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableResNeXt
from sepnas.plan.merge_rules import LEARNED_RULES
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.patterns import all_to_all, point
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.space import SearchSpace

KEPT_SKELETONS = 64
NO_POLICY = TransmissionPolicy()


class Supernet(SeparableResNeXt):
    """The largest network of a space, with the heads and merge weights that all its policies need.

    ``forward(x_BCHW, architecture)`` maps ``(B, in_channels, S, S)`` to ``(B, num_classes)`` for an architecture of
    the space (default: the largest). Batch norms use the batch's own statistics in any mode. ``outage`` is as in
    :class:`SeparableResNeXt`.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space.architecture_of(space.largest()), all_heads=True)
        self.space = space
        self.weighted = any(rule in LEARNED_RULES for rule in space.policy.merges)
        self.add_merge_weights(_every_transfer(self.architecture, self.weighted))
        drop_statistics(self)

    def forward(  # type: ignore[override]
        self, x_BCHW: Tensor, architecture: Architecture | None = None, outage: Outage | None = None
    ) -> Tensor:
        if architecture is None:
            return super().forward(x_BCHW, outage=outage)
        if bare(architecture) == bare(self.architecture):
            return super().forward(x_BCHW, architecture.policy, outage)
        network, weights = self._skeleton(architecture).network, self.weights_of(architecture)
        logits: Tensor = torch.func.functional_call(network, weights, (x_BCHW, architecture.policy, outage))
        return logits

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """Differentiable slices of the shared weights for a network of the space, under that network's weight names.

        All heads and all merge weights are included, so the slices serve any policy.
        """
        return self._skeleton(architecture).weights(dict(self.named_parameters()))

    @torch.no_grad()
    def extract(self, architecture: Architecture, every_policy: bool = False) -> SeparableResNeXt:
        """A stand-alone network of the space with copies of its weights, on the supernet's device.

        Its batch norm statistics must still be measured (:func:`recalibrate_batch_norm`). With ``every_policy`` it has
        the heads and merge weights for any policy of the space.
        """
        shared = self.weights_of(architecture)
        if every_policy:
            architecture = architecture.model_copy(update={"policy": _every_transfer(architecture, self.weighted)})
        with torch.device("meta"):  # no weights are drawn, so the random generator's state is unchanged
            network = SeparableResNeXt(architecture, all_heads=every_policy)
        network.to_empty(device=next(self.parameters()).device)
        for name, weight in network.named_parameters():
            weight.copy_(shared[name])
        for layer in _batch_norms(network):
            layer.reset_running_stats()
        return network

    def _skeleton(self, architecture: Architecture) -> _Skeleton:
        return _make_skeleton(bare(architecture), bare(self.architecture), self.weighted)


@dataclass
class _Skeleton:
    """A network without weights, and the place of each of its weights in the largest network."""

    network: SeparableResNeXt
    cuts: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]

    def weights(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: cut(whole[source]) for name, (source, cut) in self.cuts.items()}


@lru_cache(maxsize=KEPT_SKELETONS)
def _make_skeleton(kept: Architecture, whole: Architecture, weighted: bool) -> _Skeleton:
    everything = kept.model_copy(update={"policy": _every_transfer(kept, weighted)})
    with torch.device("meta"):
        network = SeparableResNeXt(everything, all_heads=True)
    drop_statistics(network)
    return _Skeleton(network, {name: _cut(name, kept, whole) for name, _ in network.named_parameters()})


def _every_transfer(architecture: Architecture, weighted: bool) -> TransmissionPolicy:
    """Weighted merges between all pairs after every block; an empty policy unless ``weighted``."""
    pairs = all_to_all(architecture.num_devices) if weighted else ()
    points = (point(block, pairs, merge=LEARNED_RULES[0]) for block in range(architecture.num_blocks) if pairs)
    return TransmissionPolicy(points=tuple(points))


def bare(architecture: Architecture) -> Architecture:
    """The architecture without policy and name: equal for networks with the same weights."""
    return architecture.model_copy(update={"policy": NO_POLICY, "name": ""})


def recalibrate_batch_norm(
    network: SeparableResNeXt,
    policy: TransmissionPolicy,
    images_BCHW: Tensor,
    batches: int = 1,
    outage_of: Callable[[int], Outage | None] = lambda batch: None,
) -> None:
    """Measure the batch norm statistics under ``policy``, and leave the network in evaluation mode.

    The statistics are the mean over ``batches`` equal batches of the normalised images. ``outage_of`` maps a batch size
    to the outage of that batch, as in training with dropout of devices.
    """
    for layer in _batch_norms(network):
        layer.reset_running_stats()
        layer.momentum = None  # None means a cumulative average
    network.train()
    with torch.no_grad():
        for batch_BCHW in images_BCHW.chunk(batches):
            network(batch_BCHW, policy, outage_of(len(batch_BCHW)))
    network.eval()


def drop_statistics(network: nn.Module) -> None:
    """Make every batch norm use batch statistics, in evaluation mode too."""
    for layer in _batch_norms(network):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _cut(name: str, kept: Architecture, whole: Architecture) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The place of a weight of ``kept`` in ``whole``: its name there, and a function that slices it."""
    kind, *path = name.split(".")
    if kind == "merges":
        after, _, pair = path[0].partition("_")
        return f"merges.after{_block_in(whole, kept, after.removeprefix('after'))}_{pair}", _identity
    if kind != "parts":
        return name, _identity
    rank, block, layer, *rest = path
    source = ".".join((kind, rank, _block_in(whole, kept, block), layer, *rest))
    sides = (kept.parts[int(rank)], whole.parts[int(rank)], kept.stage_of(int(block)))
    return source, _slicing(layer, rest[0], *sides)


def _block_in(whole: Architecture, kept: Architecture, block: str) -> str:
    stage, place = divmod(int(block), kept.blocks_per_stage[0])
    return str(stage * whole.blocks_per_stage[0] + place)


def _slicing(layer: str, kind: str, kept: DevicePart, whole: DevicePart, stage: int) -> Callable[[Tensor], Tensor]:
    """A narrower network differs only in each block's middle channels, groups times width."""
    groups, width = kept.cardinality, kept.bottleneck_width << stage
    whole_sides = (whole.cardinality, whole.bottleneck_width << stage)

    def first_channels(weight: Tensor, dim: int) -> Tensor:
        sides: Tensor = weight.unflatten(dim, whole_sides)  # type: ignore[no-untyped-call]
        return sides.narrow(dim, 0, groups).narrow(dim + 1, 0, width).flatten(dim, dim + 1)

    if (groups, width) == whole_sides or layer == "shortcut" or (layer, kind) == ("expand", "bn"):
        return _identity
    if layer == "expand":
        return lambda weight: first_channels(weight, 1)
    if (layer, kind) == ("group", "conv"):
        return lambda weight: first_channels(weight, 0)[:, :width]
    return lambda weight: first_channels(weight, 0)


def _identity(weight: Tensor) -> Tensor:
    return weight
