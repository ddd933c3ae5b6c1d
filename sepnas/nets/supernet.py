"""The supernet: one set of weights that every network and policy of a search space shares.

A subnet takes the first blocks of each stage, the first groups, and the first channels of each group of the largest
network, as slimmable networks do (arXiv 1812.08928, 1908.09791). Batch norms keep no running statistics here, because
the statistics depend on the merges: an extracted network has its own measured (arXiv 1903.05134).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.statistics import recalibrate
from sepnas.plan.merge_rules import LEARNED_RULES, MergeRule
from sepnas.separable.architecture import Architecture
from sepnas.separable.forms import Axes
from sepnas.separable.layers import merge_axes, weight_axes
from sepnas.separable.patterns import all_to_all, point
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.space import SearchSpace

KEPT_SKELETONS = 64
NO_POLICY = TransmissionPolicy()
_MATRIX = re.compile(r"merges\.after(\d+)_from(\d+)_to(\d+)_matrix")


class Supernet(SeparableNetwork):
    """The largest network of a space, with the heads and merge weights that all its policies need.

    ``forward(x_BCHW, architecture)`` maps ``(B, in_channels, S, S)`` to ``(B, num_classes)`` for an architecture of
    the space (default: the largest). Batch norms use the batch's own statistics in any mode. ``outage`` is as in
    :class:`SeparableNetwork`.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space.architecture_of(space.largest()), all_heads=True)
        self.space = space
        self.learned = tuple(rule for rule in LEARNED_RULES if rule in space.policy.merges)
        add_every_merge(self, self.learned)
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
    def extract(self, architecture: Architecture, every_policy: bool = False) -> SeparableNetwork:
        """A stand-alone network of the space with copies of its weights, on the supernet's device.

        Its batch norm statistics must still be measured (:func:`recalibrate_batch_norm`). With ``every_policy`` it has
        the heads and merge weights for any policy of the space.
        """
        shared = self.weights_of(architecture)
        with torch.device("meta"):  # no weights are drawn, so the random generator's state is unchanged
            network = SeparableNetwork(architecture, all_heads=every_policy)
            if every_policy:
                add_every_merge(network, self.learned)
        network.to_empty(device=next(self.parameters()).device)
        for name, weight in network.named_parameters():
            weight.copy_(shared[name][tuple(map(slice, weight.shape))])  # of a matrix, the columns that are sent
        for layer in _batch_norms(network):
            layer.reset_running_stats()
        return network

    def _skeleton(self, architecture: Architecture) -> _Skeleton:
        return _make_skeleton(bare(architecture), bare(self.architecture), self.learned)


@dataclass
class _Skeleton:
    """A network without weights, and the place of each of its weights in the largest network."""

    network: SeparableNetwork
    cuts: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]

    def weights(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: cut(whole[source]) for name, (source, cut) in self.cuts.items()}


@lru_cache(maxsize=KEPT_SKELETONS)
def _make_skeleton(kept: Architecture, whole: Architecture, learned: tuple[MergeRule, ...]) -> _Skeleton:
    with torch.device("meta"):
        network = SeparableNetwork(kept, all_heads=True)
        add_every_merge(network, learned)
    drop_statistics(network)
    return _Skeleton(network, _cuts((name for name, _ in network.named_parameters()), kept, whole))


def add_every_merge(network: SeparableNetwork, learned: Iterable[MergeRule]) -> None:
    """Create the weights of merges by these rules between all pairs after every block, of all channels."""
    pairs = all_to_all(network.architecture.num_devices)
    for rule in learned:
        points = [point(block, pairs, merge=rule) for block in range(network.architecture.num_blocks)]
        network.add_merge_weights(TransmissionPolicy(points=tuple(points)), every_channel=True)


def bare(architecture: Architecture) -> Architecture:
    """The architecture without policy and name: equal for networks with the same weights."""
    return architecture.model_copy(update={"policy": NO_POLICY, "name": ""})


def recalibrate_batch_norm(
    network: SeparableNetwork,
    policy: TransmissionPolicy,
    images_BCHW: Tensor,
    batches: int = 1,
    outage_of: Callable[[int], Outage | None] = lambda batch: None,
) -> None:
    """Measure the batch norm statistics under ``policy``, and leave the network in evaluation mode.

    The statistics are the mean over ``batches`` equal batches of the normalised images. ``outage_of`` maps a batch size
    to the outage of that batch, as in training with dropout of devices.
    """
    network.train()
    recalibrate(
        _batch_norms(network),
        images_BCHW.chunk(batches),
        lambda batch_BCHW: network(batch_BCHW, policy, outage_of(len(batch_BCHW))),
    )
    network.eval()


def drop_statistics(network: nn.Module) -> None:
    """Make every batch norm use batch statistics, in evaluation mode too."""
    for layer in _batch_norms(network):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _cuts(
    names: Iterable[str], kept: Architecture, whole: Architecture
) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """The place of each weight of ``kept`` in ``whole``: its name there, and a function that slices it."""
    sources = {name: _source(name, kept, whole) for name in names}
    return {name: (source, _slicing(_axes_of(name, kept), _axes_of(source, whole))) for name, source in sources.items()}


def _axes_of(name: str, architecture: Architecture) -> Axes:
    """The axes of a weight; none of a single number."""
    found = _MATRIX.fullmatch(name)
    return merge_axes(architecture, *map(int, found.groups())) if found else weight_axes(architecture).get(name, ())


def _source(name: str, kept: Architecture, whole: Architecture) -> str:
    """The name in ``whole`` of a weight of ``kept``: they differ in the numbers of blocks."""
    kind, *path = name.split(".")
    if kind == "merges":
        after, _, pair = path[0].partition("_")
        return f"merges.after{_block_in(whole, kept, after.removeprefix('after'))}_{pair}"
    if kind == "parts":
        path[1] = str(_block_in(whole, kept, path[1]))
    return ".".join((kind, *path))


def _block_in(whole: Architecture, kept: Architecture, block: str) -> int:
    return whole.stages.block(*kept.stages.place(int(block)))


def _slicing(kept: Axes, whole: Axes) -> Callable[[Tensor], Tensor]:
    """Takes the first groups, and the first channels of each group, along every axis."""
    narrower = [(dim, own, other) for dim, (own, other) in enumerate(zip(kept, whole, strict=True)) if own != other]
    if not narrower:
        return _identity

    def take(weight: Tensor) -> Tensor:
        for dim, own, other in narrower:
            grouped: Tensor = weight.unflatten(dim, other)  # type: ignore[no-untyped-call]
            weight = grouped.narrow(dim, 0, own.groups).narrow(dim + 1, 0, own.width).flatten(dim, dim + 1)
        return weight

    return take


def _identity(weight: Tensor) -> Tensor:
    return weight
