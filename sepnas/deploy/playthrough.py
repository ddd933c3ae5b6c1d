"""Executes a plan in one process, device by device, and records the inputs of every segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from sepnas.errors import PlanError
from sepnas.nets.exchange import through_wire
from sepnas.plan.merges import merge
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step


class PlannedNetwork(Protocol):
    """A network that provides the layers, merge weights and scales named by a plan."""

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module: ...

    def merge_weights(self, rank: int) -> dict[str, Tensor]: ...

    def scale(self, name: str) -> Tensor: ...


@torch.no_grad()
def segment_inputs(
    plan: Plan, network: PlannedNetwork, images: Mapping[str, Tensor], rank: int
) -> dict[str, dict[str, Tensor]]:
    """The inputs ``(B, *shape)`` of each segment of device ``rank``, by name; ``images`` are the client's inputs."""
    mail = {
        piece.tag: through_wire(images[port.name][piece.region.slices], piece.wire)
        for port in plan.inputs
        for piece in port.pieces
    }
    devices = [_Device(plan, network, each, mail) for each in range(plan.num_devices)]
    running = [device.run() for device in devices]
    while running:
        left = len(running), len(mail)
        running = [each for each in running if next(each, "done") != "done"]
        if (len(running), len(mail)) == left:
            raise PlanError("the plan's devices wait for each other")
    return devices[rank].taken


class _Device:
    """One device of the plan; ``mail`` has all messages sent so far, by tag."""

    def __init__(self, plan: Plan, network: PlannedNetwork, rank: int, mail: dict[int, Tensor]) -> None:
        self.plan, self.network, self.rank, self.mail = plan, network, rank, mail
        self.weights = network.merge_weights(rank)
        self.tensors: dict[str, Tensor] = {}
        self.taken: dict[str, dict[str, Tensor]] = {}

    def run(self) -> Iterator[None]:
        """Execute the program; yields while it waits for a message."""
        for step in self.plan.programs[self.rank]:
            while isinstance(step, Recv) and step.tag not in self.mail:
                yield
            self._do(step)

    def _do(self, step: Step) -> None:
        tensors = self.tensors
        if isinstance(step, Recv):
            tensors[step.tensor] = self.mail[step.tag]
        elif isinstance(step, Slice):
            tensors[step.output] = tensors[step.tensor][step.region.slices]
        elif isinstance(step, Merge):
            tensors[step.output] = self._merge(step)
        elif isinstance(step, Compute):
            self._compute(step)
        elif step.to != CLIENT:
            self._send(step)

    def _send(self, step: Send) -> None:
        log_step = self.network.scale(step.scale).log() if step.scale else None
        self.mail[step.tag] = through_wire(self.tensors[step.tensor][step.region.slices], step.wire, log_step)

    def _merge(self, step: Merge) -> Tensor:
        weights = self.weights[step.parameter].numpy() if step.parameter else None
        inputs = [self.tensors[name].numpy() for name in step.inputs]
        return torch.from_numpy(merge(step, self.plan.shapes[self.rank][step.output], inputs, weights))

    def _compute(self, step: Compute) -> None:
        segment = self.plan.segments[self.rank][step.segment]
        inputs = [self.tensors[name] for name in step.inputs]
        self.taken[segment.name] = dict(zip(segment.inputs, inputs, strict=True))
        made = self.network.segment(self.rank, segment.layers)(*inputs)
        outputs = made if isinstance(made, tuple) else (made,)
        for name, output in zip(step.outputs, outputs, strict=True):
            self.tensors[name] = output.reshape(len(output), *self.plan.shapes[self.rank][name].dims)
