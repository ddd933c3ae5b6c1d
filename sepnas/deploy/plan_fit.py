"""Checks whether a trained network can be cut by a plan from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sepnas.deploy.segment_fit import segment_problems
from sepnas.errors import DeploymentError
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge, Send

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableResNeXt


def check_fits(plan: Plan, network: SeparableResNeXt) -> None:
    """Raise :class:`DeploymentError` unless the network has everything that the plan names, in the plan's shapes."""
    problem = next(_problems(plan, network), None)
    if problem:
        raise DeploymentError(f"the plan does not fit the network {network.architecture.name}: {problem}")


def _problems(plan: Plan, network: SeparableResNeXt) -> Iterator[str]:
    architecture = network.architecture
    if plan.num_devices != architecture.num_devices:
        yield f"it is for {plan.num_devices} devices, the network for {architecture.num_devices}"
        return
    image = Shape.chw(architecture.in_channels, architecture.image_size, architecture.image_size)
    logits = Shape.vector(architecture.num_classes)
    for ports, shape, what in ((plan.inputs, image, "input"), (plan.outputs, logits, "output")):
        if [port.shape for port in ports] != [shape]:
            found = ", ".join(str(port.shape) for port in ports)
            yield f"its {what}s are {found}, the network's {what} is {shape}"
    if len(plan.outputs[0].pieces) > 1:
        yield "its output is sent by several devices, and a client takes it from one"
    for rank in range(plan.num_devices):
        yield from segment_problems(plan, network, rank)
        yield from _missing_on(plan, network, rank)


def _missing_on(plan: Plan, network: SeparableResNeXt, rank: int) -> Iterator[str]:
    """The merge weights and scales that device ``rank`` needs and the network lacks."""
    merges = network.merge_weights(rank)
    for step in plan.programs[rank]:
        if isinstance(step, Merge) and step.parameter:
            found = merges.get(step.parameter)
            if found is None or len(found) != len(step.inputs) - 1:
                yield f"device {rank} merges with {len(step.inputs) - 1} learned weights '{step.parameter}'"
        elif isinstance(step, Send) and step.scale and step.scale not in network.log_scales:
            yield f"device {rank} sends '{step.tensor}' with the learned scale '{step.scale}'"
