"""A separable network as one torch module: the parts of all devices and their exchanges.

The parts are separate narrow networks, not groups of one wide network: the arithmetic then matches the devices bit
for bit, and it is faster on CPUs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.nets.blocks import make_module
from sepnas.nets.outage import Outage
from sepnas.nets.planned import Layers, Lookup, Watcher, run_plan
from sepnas.plan.merge_rules import LEARNED_RULES, MERGERS, Merger
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.schedule import Schedule, schedule
from sepnas.plan.wire import LEVELS, WireFormat
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import device_layers, has_head, matrix_dims, merge_axes
from sepnas.separable.lower import merge_parameter
from sepnas.separable.policy import Due, ExchangePoint, Transfer, TransmissionPolicy, merge_rule, needs_weights

KEPT_PLANS = 128


class SeparableNetwork(nn.Module):
    """The whole network of an architecture: ``(B, in_channels, S, S) -> (B, num_classes)``.

    Source: arXiv 2111.02489. Images may have another side than the architecture's, as in training with ``first_size``;
    raises :class:`SpecError` if the network cannot take it.

    ``forward`` accepts another policy over the same weights; the supernet samples this way.
    ``all_heads`` gives every device a classifier, for policies with another read-out. With an ``outage``, the network
    answers as the remaining devices would; raises :class:`PlanError` if no device can answer.
    """

    def __init__(self, architecture: Architecture, all_heads: bool = False) -> None:
        super().__init__()
        self.architecture = architecture
        self.policy = architecture.policy
        parts = [device_layers(architecture, rank) for rank in range(architecture.num_devices)]
        self.stem = make_module(parts[0][0].form)
        self.parts = nn.ModuleList(nn.ModuleList(make_module(x.form) for x in layers[1:-1]) for layers in parts)
        self.heads = nn.ModuleDict(
            {
                str(rank): make_module(layers[-1].form)
                for rank, layers in enumerate(parts)
                if all_heads or has_head(architecture, rank)
            }
        )
        self.merges = nn.ParameterDict()
        self.add_merge_weights(self.policy)
        self.log_scales = nn.ParameterDict()
        self.add_scales(self.policy)
        self._own = planned(architecture)
        self._places = [_places(architecture, rank) for rank in range(architecture.num_devices)]

    def add_merge_weights(self, policy: TransmissionPolicy, every_channel: bool = False) -> None:
        """Create missing learned weights for the transfers of learned merges: numbers of a mean, or matrices of 0.

        With ``every_channel``, matrices have a column for each channel of the sender, whatever it sends.
        """
        for due in _learned_merges(self.architecture, policy):
            for name, (point, transfer) in zip(due.names, due.messages, strict=True):
                if name in self.merges:
                    continue
                dims = self._matrix_dims(point, transfer, every_channel) if due.convolves else ()
                self.merges[name] = nn.Parameter(torch.full(dims, 0.0 if dims else 1.0 / (1 + len(due.names))))

    def _matrix_dims(self, point: ExchangePoint, transfer: Transfer, every_channel: bool) -> tuple[int, ...]:
        if every_channel:
            axes = merge_axes(self.architecture, point.after, transfer.source, transfer.destination)
            return tuple([axis.size for axis in axes])
        return matrix_dims(self.architecture, point, transfer)

    def add_scales(self, policy: TransmissionPolicy) -> None:
        """Create missing scales for messages with a learned scale; calibrate or train them afterwards."""
        for name, wire in policy.learned_scales().items():
            if name not in self.log_scales:
                self.log_scales[name] = _first_log_scale(wire)

    def forward(self, x_BCHW: Tensor, policy: TransmissionPolicy | None = None, outage: Outage | None = None) -> Tensor:
        return self.run(x_BCHW, policy, outage)

    def with_stages(
        self, x_BCHW: Tensor, policy: TransmissionPolicy | None = None, outage: Outage | None = None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The logits, and the merged features after each stage of the devices that the answer needs."""
        names = [*(f"block{block}" for block in range(self.architecture.num_blocks)), "head"]
        stages = _Stages([names[block + 1] for block in self.architecture.stages.ends])
        logits_BK = self.run(x_BCHW, policy, outage, stages)
        return logits_BK, [[found[rank] for rank in sorted(found)] for found in stages.taken.values()]

    def run(
        self,
        x_BCHW: Tensor,
        policy: TransmissionPolicy | None = None,
        outage: Outage | None = None,
        watcher: Watcher | None = None,
    ) -> Tensor:
        """The logits; ``watcher`` sees the layers' inputs and what is sent."""
        schedule, merges = self._planned(policy, x_BCHW.shape[-1])

        def weights(rank: int, parameter: str) -> list[Tensor]:
            return [self.merges[name] for name in merges[rank, parameter]]

        lookup = Lookup(self._layers, weights, self.log_scales.__getitem__)
        [port], [answer] = schedule.plan.inputs, schedule.plan.outputs
        return run_plan(schedule, lookup, {port.name: x_BCHW}, outage, watcher)[answer.name]

    def _planned(self, policy: TransmissionPolicy | None, side: int) -> Planned:
        """The plan under a policy (None: its own) for images of a side."""
        if policy is None and side == self.architecture.image_size:
            return self._own
        architecture = _for_side(self.architecture, side)
        return planned(architecture if policy is None else architecture.model_copy(update={"policy": policy}))

    def _layers(self, rank: int, segment: Segment) -> Layers:
        return [(name, self._layer(rank, name)) for name in segment.layers]

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Sequential:
        """The named layers of one device in order, sharing the weights of this network."""
        return nn.Sequential(OrderedDict((name, self._layer(rank, name)) for name in layers))

    def _layer(self, rank: int, name: str) -> nn.Module:
        module: nn.Module = self
        for key in self._places[rank][name]:
            module = module._modules[key]  # type: ignore[assignment]
        return module

    def scale(self, name: str) -> Tensor:
        """The learned step with this name in the plan: one fp32 number."""
        step: Tensor = self.log_scales[name].detach().exp()
        return step

    @property
    def plan(self) -> Plan:
        """The plan of the network's own policy."""
        return self._own.schedule.plan

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: log-scales, for which 0 has no special meaning. (timm calls this method.)"""
        return {f"log_scales.{name}" for name in self.log_scales}

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        """The weights of one device's learned merges, by their name in the plan, in merge order.

        Matrices of messages with fewer channels than others are as wide as these: their last columns are 0.
        """
        return {
            parameter: _stacked([self.merges[name].detach() for name in names])
            for (device, parameter), names in self._own.merges.items()
            if device == rank
        }


def of_channels(weight: Tensor, wanted: Tensor) -> Tensor:
    """A weight that was trained under another policy, in the shape of ``wanted``.

    Of a merge's matrix, it has the columns of the channels that are sent; further columns are those of ``wanted``.
    """
    if weight.shape == wanted.shape:
        return weight
    columns = min(weight.shape[1], wanted.shape[1])
    return torch.cat((weight[:, :columns], wanted[:, columns:]), 1)


def _stacked(weights: Sequence[Tensor]) -> Tensor:
    if not weights[0].dim():
        return torch.stack(list(weights))
    widest = max(weight.shape[1] for weight in weights)
    return torch.stack([functional.pad(weight, (0, widest - weight.shape[1])) for weight in weights])


class _Stages(Watcher):
    """Keeps what the named layers take, by layer and rank."""

    def __init__(self, layers: Iterable[str]) -> None:
        self.taken: dict[str, dict[int, Tensor]] = {layer: {} for layer in layers}

    def layer(self, rank: int, segment: Segment, layer: str, inputs: tuple[Tensor, ...]) -> None:
        if layer in self.taken:
            self.taken[layer][rank] = inputs[0]


class Planned(NamedTuple):
    """An architecture's schedule, and the names of the weights of its learned merges, in merge order.

    ``merges`` is by rank and by the merge's parameter in the plan.
    """

    schedule: Schedule
    merges: Mapping[tuple[int, str], tuple[str, ...]]


def planned(architecture: Architecture) -> Planned:
    """The plan of an architecture, ready to be executed. Equal architectures share it, whatever their names."""
    return _planned(architecture.model_copy(update={"name": ""}))


@lru_cache(maxsize=KEPT_PLANS)
def _for_side(architecture: Architecture, side: int) -> Architecture:
    return architecture.for_side(side)


@lru_cache(maxsize=KEPT_PLANS)
def _planned(architecture: Architecture) -> Planned:
    merges = {(due.rank, due.parameter): due.names for due in _learned_merges(architecture, architecture.policy)}
    return Planned(schedule(build_plan(architecture)), merges)


def _places(architecture: Architecture, rank: int) -> dict[str, tuple[str, ...]]:
    """The path of each of a device's layers among the modules of the network."""
    blocks = {f"block{block}": ("parts", str(rank), str(block)) for block in range(architecture.num_blocks)}
    return {"stem": ("stem",), **blocks, "head": ("heads", str(rank))}


class _LearnedMerge(NamedTuple):
    """A learned merge: its device, its weights' name in the plan, its messages, and the names of their weights."""

    rank: int
    parameter: str
    messages: Due
    names: tuple[str, ...]
    convolves: bool


def _learned_merges(architecture: Architecture, policy: TransmissionPolicy) -> Iterator[_LearnedMerge]:
    if not any(point.merge in LEARNED_RULES for point in policy.points):
        return
    for block in range(architecture.num_blocks):
        for rank in range(architecture.num_devices):
            due = policy.arrivals(block, rank)
            if needs_weights(due):
                merger = MERGERS[merge_rule(due)]
                names = tuple(_merge_name(merger, point, transfer) for point, transfer in due)
                yield _LearnedMerge(rank, merge_parameter(block), due, names, merger.convolves)


def _merge_name(merger: Merger, point: ExchangePoint, transfer: Transfer) -> str:
    kind = "_matrix" if merger.convolves else ""
    return f"after{point.after}_from{transfer.source}_to{transfer.destination}{kind}"


def _first_log_scale(wire: WireFormat) -> nn.Parameter:
    """The initial log-step, for outputs of up to 4, until calibration (:mod:`sepnas.nets.scales`)."""
    return nn.Parameter(torch.tensor(4.0 / LEVELS[wire]).log())
