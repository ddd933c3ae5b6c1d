"""Checks whether a plan's segments are pieces of a trained network: their layers, weights and shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from sepnas.plan.plan import Plan, Segment
from sepnas.plan.steps import Compute
from sepnas.separable.layer import Layer
from sepnas.separable.layers import network_table
from sepnas.spec.document import short

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork

_LISTED = 3
"""The number of weights that a message names."""


def segment_problems(plan: Plan, network: SeparableNetwork, rank: int) -> Iterator[str]:
    """Why segments of device ``rank`` cannot be cut from the network, with the device and the segment."""
    table = network_table(network.architecture)[rank]
    layers = [layer for layer in table.layers if layer.name != "head" or str(rank) in network.heads]
    names = [layer.name for layer in layers]
    for name, segment in plan.segments[rank].items():
        where = f"device {rank}, segment '{name}'"
        problem = _layers_problem(segment.layers, names)
        if problem:
            yield f"{where}: {problem}"
            continue
        first = names.index(segment.layers[0])
        run = layers[first : first + len(segment.layers)]
        ports = (layers[first - 1].output if first else table.image, run[-1].output)
        problems = (_weights_problem(segment, run), _names_problem(segment), _shapes_problem(plan, rank, name, ports))
        yield from (f"{where}: {each}" for each in problems if each)


def _layers_problem(layers: tuple[str, ...], names: list[str]) -> str | None:
    listed = short(", ".join(layers))
    if foreign := [name for name in layers if name not in names]:
        return f"computes the layers {listed}, but it has no {short(foreign[0])}, only {names[0]} to {names[-1]}"
    first = names.index(layers[0])
    if list(layers) != names[first : first + len(layers)]:
        return f"computes the layers {listed}, which do not follow each other in the network"
    return None


def _weights_problem(segment: Segment, layers: list[Layer]) -> str | None:
    """Its weights must be those of its layers, each whole and once: a graph would bake in those that it lacks."""
    own = {weight.name: weight.region for layer in layers for weight in layer.weights}
    named = [weight.name for weight in segment.weights]
    if missing := [name for name in own if name not in named]:
        return f"lacks {_listed(missing)} of its layers"
    if foreign := [name for name in named if name not in own]:
        return f"takes {_listed(foreign)}, which its layers do not have"
    if twice := [name for name in own if named.count(name) > 1]:
        return f"takes {_listed(twice)} twice"
    if partial := [weight.name for weight in segment.weights if weight.region != own[weight.name]]:
        ranges = "x".join(f"{start}:{stop}" for start, stop in own[partial[0]].ranges)
        return f"must take {_listed(partial)} whole: {short(partial[0])} is {ranges}"
    return None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(f"'{name[:80]}'" for name in list(names)[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"the weight{'' if len(names) == 1 else 's'} {shown}{more}"


def _names_problem(segment: Segment) -> str | None:
    names = [*segment.inputs, *segment.outputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    return None if twice is None else f"names two of its inputs and outputs {short(twice)}"


def _shapes_problem(plan: Plan, rank: int, name: str, made: tuple[object, object]) -> str | None:
    """The plan's shapes of its input and output must be those of the layers."""
    for step in plan.programs[rank]:
        if not isinstance(step, Compute) or step.segment != name:
            continue
        for tensors, shape, verb in ((step.inputs, made[0], "take"), (step.outputs, made[1], "make")):
            found = [plan.shapes[rank][tensor] for tensor in tensors]
            if found != [shape]:
                listed = ", ".join(f"'{tensor}' of {told}" for tensor, told in zip(tensors, found, strict=True))
                return f"its layers {verb} {shape}, and the plan says {listed[:200]}"
    return None
