"""Checks whether a trained network can be cut by a plan from a file."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

from sepnas.deploy.segment_fit import segment_problems
from sepnas.errors import DeploymentError
from sepnas.plan.device_totals import is_convolving
from sepnas.plan.merges import merge_weights_dims
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Region
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.separable.build import build_plan
from sepnas.separable.lower import lower

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork


def check_fits(plan: Plan, network: SeparableNetwork) -> None:
    """Raise :class:`DeploymentError` unless the network has everything that the plan names, in the plan's shapes."""
    problem = next(_problems(plan, network), None)
    if problem:
        raise DeploymentError(f"the plan does not fit the network {network.architecture.name}: {problem}")


def _problems(plan: Plan, network: SeparableNetwork) -> Iterator[str]:
    own = build_plan(network.architecture)
    if plan.num_devices != own.num_devices:
        yield f"it is for {plan.num_devices} devices, the network for {own.num_devices}"
        return
    yield from _port_problems(plan, own)
    for rank in range(plan.num_devices):
        yield from segment_problems(plan, network, rank)
        yield from _missing_on(plan, network, rank)


def _port_problems(plan: Plan, own: Plan) -> Iterator[str]:
    """Inputs must be those of the network's own plan; outputs may be others, but one of the same name must be alike."""
    taken = {port.name: port.shape for port in own.inputs}
    if {port.name: port.shape for port in plan.inputs} != taken:
        found = ", ".join(f"'{port.name}' ({port.shape})" for port in plan.inputs)
        wanted = ", ".join(f"'{name}' ({shape})" for name, shape in taken.items())
        yield f"its inputs are {found}, the network's {wanted}"
    answered = {port.name: port.shape for port in own.outputs}
    for port in plan.outputs:
        if port.shape != answered.get(port.name, port.shape):
            yield f"its output '{port.name}' is {port.shape}, the network's is {answered[port.name]}"


def _missing_on(plan: Plan, network: SeparableNetwork, rank: int) -> Iterator[str]:
    """The merge weights and scales that device ``rank`` needs and the network lacks."""
    trained = lower(network.architecture)
    merged = {step.parameter: _merged_by(trained, rank, step) for step in trained.programs[rank] if _is_learned(step)}
    for step in plan.programs[rank]:
        if _is_learned(step):
            if merged.get(step.parameter) != _merged_by(plan, rank, step):
                size = _size_text(merge_weights_dims(step, plan.shapes[rank]))
                yield (
                    f"device {rank} merges with {size} learned weights '{step.parameter}', which were not trained for "
                    "these messages"
                )
        elif isinstance(step, Send) and step.scale and step.scale not in network.log_scales:
            yield f"device {rank} sends '{step.tensor}' with the learned scale '{step.scale}'"


def _is_learned(step: Step) -> TypeGuard[Merge]:
    return isinstance(step, Merge) and step.parameter is not None


def _merged_by(plan: Plan, rank: int, step: Merge) -> tuple[object, ...]:
    """What the weights of a learned merge are for: its kind, and whose layers' outputs it takes.

    If it convolves, also which channels of them.
    """
    found: list[object] = [step.kind]
    for name in step.inputs:
        holder, tensor, region = _sender(plan, rank, name)
        made = {name: each for each in plan.programs[holder] for name in each.writes}
        found.append((holder, _origin(plan, holder, tensor, made), region if is_convolving(step) else None))
    return tuple(found)


def _sender(plan: Plan, rank: int, tensor: str) -> tuple[int, str, Region | None]:
    """The device that a tensor came from, its name there, and what was sent of it; None if it was made here."""
    for step in plan.programs[rank]:
        if isinstance(step, Recv) and step.tensor == tensor and step.source != CLIENT:
            [sent] = (s for s in plan.programs[step.source] if isinstance(s, Send) and s.tag == step.tag)
            return step.source, sent.tensor, sent.region
    return rank, tensor, None


def _size_text(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims))


def warn_of_other_messages(plan: Plan, network: SeparableNetwork) -> None:
    """Warn if the devices exchange other messages than those with which the network was trained.

    Only outputs that the plan and the network's own plan have in common are compared.
    """
    own = build_plan(network.architecture)
    outputs = {port.name for port in own.outputs} & {port.name for port in plan.outputs}
    if _exchanged(plan, outputs) != _exchanged(own, outputs):
        warnings.warn(
            "the plan sends other messages than the network was trained with: the run's accuracy no longer holds",
            stacklevel=3,
        )


def _exchanged(plan: Plan, outputs: Collection[str]) -> Counter[tuple[object, ...]]:
    """The messages without tags and names of tensors: ranks, what is sent, its region, and the wire format.

    Of those to the client only the ``outputs`` of these names.
    """
    answers = {piece.tag for port in plan.outputs if port.name in outputs for piece in port.pieces}
    found = Counter[tuple[object, ...]](
        (CLIENT, piece.device, (port.name,), piece.region, piece.wire, None)
        for port in plan.inputs
        for piece in port.pieces
    )
    for rank, program in enumerate(plan.programs):
        made = {name: step for step in program for name in step.writes}
        for step in program:
            if isinstance(step, Send) and (step.to != CLIENT or step.tag in answers):
                origin = _origin(plan, rank, step.tensor, made)
                found[rank, step.to, origin, step.region, step.wire, step.scale] += 1
    return found


def _origin(plan: Plan, rank: int, tensor: str, made: Mapping[str, Step]) -> tuple[str, ...]:
    """What a tensor holds: the last layer that computed it, after the slices and merges since then."""
    origin: list[str] = []
    while True:
        step = made[tensor]
        if isinstance(step, Compute):
            return (*origin, plan.segments[rank][step.segment].layers[-1])
        if not step.reads:
            return (*origin, "received")
        if isinstance(step, Slice):
            origin.append(str(step.region))
        elif isinstance(step, Merge):
            origin.append(step.kind)
        tensor = step.reads[0]
