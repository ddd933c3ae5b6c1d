"""A separable network as one torch module: the parts of all devices and their exchanges.

The parts are separate narrow networks, not groups of one wide network: the arithmetic then matches the devices bit
for bit, and it is faster on CPUs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sepnas.nets.blocks import make_module
from sepnas.nets.exchange import merge, merge_mean, through_wire
from sepnas.nets.outage import Outage, merge_arrived
from sepnas.plan.wire import LEVELS, WireFormat
from sepnas.separable.architecture import Architecture
from sepnas.separable.layers import device_layers, has_head
from sepnas.separable.policy import ExchangePoint, Transfer, TransmissionPolicy, merge_rule, needs_weights


class SeparableResNeXt(nn.Module):
    """The whole network of an architecture: ``(B, in_channels, S, S) -> (B, num_classes)``.

    Source: arXiv 2111.02489. ``forward`` accepts another policy over the same weights; the supernet samples this way.
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

    def add_merge_weights(self, policy: TransmissionPolicy) -> None:
        """Create missing learned weights for the transfers of weighted merges, initialised to the mean."""
        for block in range(self.architecture.num_blocks):
            for rank in range(self.architecture.num_devices):
                due = policy.arrivals(block, rank)
                if needs_weights(due):
                    for point, transfer in due:
                        name = _merge_name(point, transfer)
                        if name not in self.merges:
                            self.merges[name] = nn.Parameter(torch.tensor(1.0 / (1 + len(due))))

    def add_scales(self, policy: TransmissionPolicy) -> None:
        """Create missing scales for messages with a learned scale; calibrate or train them afterwards."""
        for name, wire in policy.learned_scales().items():
            if name not in self.log_scales:
                self.log_scales[name] = _first_log_scale(wire)

    def forward(self, x_BCHW: Tensor, policy: TransmissionPolicy | None = None, outage: Outage | None = None) -> Tensor:
        routes = _Routes(self.policy if policy is None else policy, self.architecture)
        last = deque(self._blocks(routes, x_BCHW, outage), maxlen=1).pop()
        return self._read_out(routes.policy, last, outage)

    def with_stages(
        self, x_BCHW: Tensor, policy: TransmissionPolicy | None = None, outage: Outage | None = None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The logits, and the merged features after each stage of the devices that the answer needs."""
        routes = _Routes(self.policy if policy is None else policy, self.architecture)
        stages: list[list[Tensor]] = []
        features: list[Tensor | None] = []
        for block, features in enumerate(self._blocks(routes, x_BCHW, outage)):
            if block in self.architecture.stages.ends:
                stages.append([x for x in features if x is not None])
        return self._read_out(routes.policy, features, outage), stages

    def _blocks(self, routes: _Routes, x_BCHW: Tensor, outage: Outage | None) -> Iterator[list[Tensor | None]]:
        """The features of each device after each block and its exchange; None for features the answer does not need."""
        stem, ranks = self.stem(x_BCHW), range(self.architecture.num_devices)
        features: list[Tensor | None] = [stem for _ in ranks]
        if outage is not None:
            outage.check(routes.policy.readout)
            features = [outage.kept(rank, stem) for rank in ranks]
        before: list[Tensor | None] = []
        for block in range(self.architecture.num_blocks):
            outputs = [
                part[block](x) if live and x is not None else None  # type: ignore[index]
                for part, x, live in zip(self.parts, features, routes.computed[block], strict=True)
            ]
            features = self._exchange(routes, block, before, outputs, outage)
            before = outputs
            yield features

    def _exchange(
        self,
        routes: _Routes,
        block: int,
        before: list[Tensor | None],
        outputs: list[Tensor | None],
        outage: Outage | None,
    ) -> list[Tensor | None]:
        """Merge the messages due after ``block`` into each device's output; messages carry unmerged outputs."""
        sent: dict[tuple[int, int, int, str, str | None], Tensor] = {}
        merged: list[Tensor | None] = []
        for rank, own in enumerate(outputs):
            if own is None or not routes.merged[block][rank]:
                merged.append(None)
                continue
            due = routes.due[block][rank]
            received, names, messages = [], [], []
            for point, transfer in due:
                source = (outputs if point.after == block else before)[transfer.source]
                if source is None:
                    assert outage is not None  # the source is lost in all samples
                    continue
                channels = transfer.num_channels(source.shape[1], own.shape[1])
                scale = transfer.scale_name(point.after)
                key = (point.after, transfer.source, channels, transfer.wire, scale)
                if key not in sent:
                    log_step = self.log_scales[scale] if scale else None
                    sent[key] = through_wire(source[:, :channels], transfer.wire, log_step)
                received.append(sent[key])
                names.append(_merge_name(point, transfer))
                messages.append((point.after, transfer.source, rank))
            if due:
                # the rule is that of all due messages, even if the message that sets it is lost, as on the devices
                rule = merge_rule(due)
                weights = [self.merges[name] for name in names] if needs_weights(due) else []
                if outage is not None:
                    own = merge_arrived(rule, own, list(map(outage.arrived, messages, received)), weights)
                else:
                    own = merge(rule, own, received, weights)
            merged.append(own)
        return merged

    def _read_out(
        self, policy: TransmissionPolicy, features: list[Tensor | None], outage: Outage | None = None
    ) -> Tensor:
        reader = policy.readout.device
        if policy.readout.kind == "device":
            only: Tensor = self.heads[str(reader)](features[reader])
            return only
        logits = {rank: self.heads[str(rank)](x) for rank, x in enumerate(features) if x is not None}
        if outage is not None:
            return outage.mean_logits(reader, logits)
        own = logits.pop(reader)
        return merge_mean(own, list(logits.values()))

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Sequential:
        """The named layers of one device in order, sharing the weights of this network."""
        return nn.Sequential(OrderedDict((name, self._layer(rank, name)) for name in layers))

    def _layer(self, rank: int, name: str) -> nn.Module:
        if name == "stem":
            return self.stem
        if name == "head":
            return self.heads[str(rank)]
        return self.parts[rank][int(name.removeprefix("block"))]  # type: ignore[index, no-any-return]

    def scale(self, name: str) -> Tensor:
        """The learned step with this name in the plan: one fp32 number."""
        step: Tensor = self.log_scales[name].detach().exp()
        return step

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: log-scales, for which 0 has no special meaning. (timm calls this method.)"""
        return {f"log_scales.{name}" for name in self.log_scales}

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        """The weights of one device's weighted merges, by their name in the plan, in merge order."""
        found = {}
        for block in range(self.architecture.num_blocks):
            due = self.policy.arrivals(block, rank)
            if needs_weights(due):
                weights = [self.merges[_merge_name(point, transfer)].detach() for point, transfer in due]
                found[f"merge{block}"] = torch.stack(weights)
        return found


class _Routes:
    """The messages ``due`` at each block and device under a policy, and the computations that reach the answer.

    ``computed[block][rank]``: the block's output is needed; ``merged[block][rank]``: its merged output is needed too.
    As in the plan, computations that do not reach the answer are skipped.
    """

    def __init__(self, policy: TransmissionPolicy, architecture: Architecture) -> None:
        blocks, ranks = range(architecture.num_blocks), range(architecture.num_devices)
        self.policy = policy
        self.due = [[policy.arrivals(block, rank) for rank in ranks] for block in blocks]
        self.computed = [[False for _ in ranks] for _ in blocks]
        self.merged = [[False for _ in ranks] for _ in blocks]
        needed = [policy.readout.kind == "mean" or rank == policy.readout.device for rank in ranks]
        for block in reversed(blocks):
            self.merged[block] = needed
            for rank in ranks:
                if needed[rank]:
                    self.computed[block][rank] = True
                    for point, transfer in self.due[block][rank]:
                        self.computed[point.after][transfer.source] = True
            needed = self.computed[block]


def _merge_name(point: ExchangePoint, transfer: Transfer) -> str:
    return f"after{point.after}_from{transfer.source}_to{transfer.destination}"


def _first_log_scale(wire: WireFormat) -> nn.Parameter:
    """The initial log-step, for outputs of up to 4, until calibration (:mod:`sepnas.nets.scales`)."""
    return nn.Parameter(torch.tensor(4.0 / LEVELS[wire]).log())
