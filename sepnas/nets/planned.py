"""Executes a plan in one process, differentiably: the devices' programs, their messages and merges.

Training, the supernet, evaluation and calibration run plans with it. It knows no family of networks: whatever is not in
the plan or in the :class:`Lookup` does not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from sepnas.errors import PlanError
from sepnas.nets.exchange import joined_pieces, merge_tensors, through_wire
from sepnas.nets.outage import Outage, merge_arrived
from sepnas.plan.plan import Piece, Plan, Segment
from sepnas.plan.schedule import Schedule, Turn
from sepnas.plan.shapes import Region
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send

Layers: TypeAlias = Sequence[tuple[str, nn.Module]]
"""A segment's modules with their names, in order: the first takes the segment's inputs, each other one the outputs of
the module before. A module returns a tensor or a tuple of tensors."""


class Watcher:
    """Sees tensors while a plan is executed; subclasses override what they need."""

    def layer(self, rank: int, segment: Segment, layer: str, inputs: tuple[Tensor, ...]) -> None:
        """Called before a layer of a segment runs, with its inputs; once for each device that shares the layer."""

    def send(self, rank: int, step: Send, x: Tensor) -> None:
        """Called with the tensor that a device is about to send a region of."""


def _no_weights(rank: int, parameter: str) -> Sequence[Tensor]:
    raise PlanError(f"device {rank} merges with the learned weights '{parameter}', which the network does not have")


def _no_log_step(scale: str) -> Tensor:
    raise PlanError(f"the plan sends with the learned scale '{scale}', which the network does not have")


@dataclass(frozen=True)
class Lookup:
    """The network's side of a plan: what the plan's names stand for.

    ``layers`` of a rank's segment; ``weights`` of a rank's learned merge, one scalar for each input after the first;
    ``log_step``: the logarithm of a learned scale.
    """

    layers: Callable[[int, Segment], Layers]
    weights: Callable[[int, str], Sequence[Tensor]] = _no_weights
    log_step: Callable[[str], Tensor] = _no_log_step


class PlannedNetwork(Protocol):
    """A network that is cut by a plan: it has the layers, merge weights and scales that the plan names."""

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module: ...

    def merge_weights(self, rank: int) -> dict[str, Tensor]: ...

    def scale(self, name: str) -> Tensor: ...


@runtime_checkable
class CutNetwork(PlannedNetwork, Protocol):
    """A network that is cut by plans whose segments are graphs."""

    def part(self, segment: Segment) -> nn.Module: ...


def part_of(network: PlannedNetwork, rank: int, segment: Segment) -> nn.Module:
    """The module of a segment; :class:`PlanError` if the segment is a graph, and the network is no traced one."""
    if not segment.nodes:
        return network.segment(rank, segment.layers)
    if not isinstance(network, CutNetwork):
        raise PlanError(f"segment '{segment.name}' is a part of a traced network, and the network given is none")
    return network.part(segment)


def lookup_of(network: PlannedNetwork) -> Lookup:
    """The lookup of a network that is cut by plans; its merge weights and scales are not trained this way."""

    parts: dict[int, tuple[Segment, nn.Module]] = {}

    def layers(rank: int, segment: Segment) -> Layers:
        if segment.nodes:
            if id(segment) not in parts:
                parts[id(segment)] = segment, part_of(network, rank, segment)
            return [(segment.name, parts[id(segment)][1])]
        module = network.segment(rank, segment.layers)
        return list(module.named_children()) if isinstance(module, nn.Sequential) else [(segment.layers[0], module)]

    def weights(rank: int, parameter: str) -> Sequence[Tensor]:
        return list(network.merge_weights(rank)[parameter])

    return Lookup(layers, weights, lambda name: network.scale(name).log())


def run_plan(
    schedule: Schedule,
    lookup: Lookup,
    inputs: Mapping[str, Tensor],
    outage: Outage | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Tensor]:
    """The plan's outputs ``(B, *shape)`` by name, for its inputs ``(B, *shape)`` by name.

    Gradients flow through all steps; through quantised messages straight. Input images are normalised values, whatever
    their format on the wire. With an ``outage`` the answer is that of the devices and messages that are left.

    Raises :class:`PlanError` for inputs of other shapes than the plan's, and if an outage leaves nobody to answer.
    """
    _check_inputs(schedule.plan, inputs)
    run = _Run(schedule, lookup, inputs, outage, watcher)
    if outage is not None:
        outage.check(schedule.plan)
    for turn in schedule.turns:
        if outage is None or outage.takes_part(turn.rank):
            run.take(turn)
    return run.outputs()


def _check_inputs(plan: Plan, inputs: Mapping[str, Tensor]) -> None:
    for port in plan.inputs:
        given = inputs.get(port.name)
        if given is None or tuple(given.shape[1:]) != port.shape.dims:
            found = "is missing" if given is None else f"is {'x'.join(map(str, given.shape[1:]))} for a sample"
            raise PlanError(f"the plan's input '{port.name}' is {port.shape}, the one given {found}")


class _Run:
    """The tensors of all devices while a batch passes through the plan.

    ``mail`` holds the messages that are sent and not yet received, by tag.
    """

    def __init__(
        self,
        schedule: Schedule,
        lookup: Lookup,
        inputs: Mapping[str, Tensor],
        outage: Outage | None,
        watcher: Watcher | None,
    ) -> None:
        self.schedule, self.plan, self.lookup, self.inputs = schedule, schedule.plan, lookup, inputs
        self.outage, self.watcher = outage, watcher
        self.tensors: list[dict[str, Any]] = [{} for _ in self.plan.programs]  # optional ones may be Arrived
        self.mail: dict[int, Tensor] = {}
        self.shared: dict[int, tuple[int, tuple[Tensor, ...]]] = {}
        for port in self.plan.inputs:
            for piece in port.pieces:
                self.mail[piece.tag] = self._given(port.name, piece)
        self.kept = {piece.tag for port in self.plan.outputs for piece in port.fallbacks} if outage else set()

    def take(self, turn: Turn) -> None:
        """Execute one step of one device."""
        step, tensors = turn.step, self.tensors[turn.rank]
        if isinstance(step, Compute):
            self._compute(turn, step)
        elif isinstance(step, Send):
            self._send(turn, step)
        elif isinstance(step, Recv):
            self._receive(turn, step)
        elif isinstance(step, Merge):
            tensors[step.output] = self._merge(turn.rank, step)
        else:
            tensors[step.output] = _part(tensors[step.tensor], step.region)
        for name in turn.drops:
            tensors.pop(name, None)  # a missing tensor was never there

    def _given(self, name: str, piece: Piece) -> Tensor:
        return through_wire(_part(self.inputs[name], piece.region), piece.wire)

    def _compute(self, turn: Turn, step: Compute) -> None:
        rank, tensors = turn.rank, self.tensors[turn.rank]
        segment = self.plan.segments[rank][step.segment]
        done, values = 0, tuple([tensors[name] for name in step.inputs])
        if turn.origin is not None:
            done, found = self._shared(turn.origin)
            if done:
                values = found if self.outage is None else tuple([self.outage.kept(rank, x) for x in found])
        for name, module in self.lookup.layers(rank, segment)[done:]:
            if self.watcher is not None:
                self.watcher.layer(rank, segment, name, values)
            values = _outputs(module, values)
        shapes = self.plan.shapes[rank]
        for name, value in zip(step.outputs, values, strict=True):
            dims = shapes[name].dims
            tensors[name] = value if value.shape[1:] == dims else value.reshape(len(value), *dims)

    def _shared(self, origin: int) -> tuple[int, tuple[Tensor, ...]]:
        """The number of leading layers that all readers of a piece of input have in common, and the outputs of these.

        They are computed once for all devices, and for all samples, whoever is lost.
        """
        if origin not in self.shared:
            name, piece = self.schedule.sources[origin]
            readers = self.schedule.readers[origin]
            chains = [self.lookup.layers(rank, segment) for rank, segment in readers]
            values: tuple[Tensor, ...] = (self._given(name, piece),)
            done = 0
            for layers in zip(*chains, strict=False) if len(chains) > 1 else ():
                layer, module = layers[0]
                if any(other is not module for _, other in layers):
                    break
                if self.watcher is not None:
                    for rank, segment in readers:
                        self.watcher.layer(rank, segment, layer, values)
                values, done = _outputs(module, values), done + 1
            self.shared[origin] = done, values
        return self.shared[origin]

    def _send(self, turn: Turn, step: Send) -> None:
        x = self.tensors[turn.rank][step.tensor]
        if self.watcher is not None:
            self.watcher.send(turn.rank, step, x)
        log_step = self.lookup.log_step(step.scale) if step.scale else None
        sent = through_wire(_part(x, step.region), step.wire, log_step)
        for tag in turn.tags:
            self.mail[tag] = sent

    def _receive(self, turn: Turn, step: Recv) -> None:
        tensors, outage = self.tensors[turn.rank], self.outage
        sent = self.mail.get(step.tag) if step.tag in self.kept else self.mail.pop(step.tag, None)
        if outage is None:
            assert sent is not None  # the schedule sends before it receives
            tensors[step.tensor] = sent
        elif step.source == CLIENT:
            assert sent is not None
            tensors[step.tensor] = outage.kept(turn.rank, sent)
        elif not turn.optional:
            tensors[step.tensor] = outage.needed(turn.rank, step, sent)
        elif sent is not None:
            tensors[step.tensor] = outage.arrived(turn.rank, step, sent)

    def _merge(self, rank: int, step: Merge) -> Tensor:
        tensors, shape = self.tensors[rank], self.plan.shapes[rank][step.output]
        weights = self.lookup.weights(rank, step.parameter) if step.parameter else ()
        there = [name in tensors for name in step.inputs]
        inputs = [tensors[name] for name, is_there in zip(step.inputs, there, strict=True) if is_there]
        if weights:
            weights = [weight for weight, is_there in zip(weights, there[1:], strict=True) if is_there]
        whole = [each for each in inputs if isinstance(each, Tensor)]
        if len(whole) == len(inputs):
            return merge_tensors(step, shape, whole, weights)
        return merge_arrived(step, shape, whole[0], inputs[1:], weights)

    def outputs(self) -> dict[str, Tensor]:
        if self.outage is not None:
            return {port.name: self.outage.answer(port, self.mail) for port in self.plan.outputs}
        return {
            port.name: joined_pieces(port, [self.mail[piece.tag] for piece in port.pieces])
            for port in self.plan.outputs
        }


def _outputs(module: nn.Module, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    made = module(*values)
    return made if isinstance(made, tuple) else (made,)


def _part(x: Tensor, region: Region) -> Tensor:
    """A region of ``(B, *shape)``; the tensor itself if it is the whole."""
    return x if x.shape[1:] == region.dims else x[region.slices]
