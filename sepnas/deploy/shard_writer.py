"""Writes the segments and weights of one device, of all its plans: what several plans share is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sepnas.deploy.int8 import Int8Calibration
from sepnas.deploy.normalisation import normalisations
from sepnas.deploy.segments import SegmentExporter, segment_weights, weights_file, weights_of
from sepnas.deployment.engines.kind import EngineKind, late
from sepnas.deployment.engines.registry import engines as all_engines
from sepnas.deployment.manifest import WEIGHTS_NAME, SegmentFiles
from sepnas.deployment.network_facts import NetworkFacts
from sepnas.deployment.plans import overlay_file
from sepnas.deployment.serial import messages_of
from sepnas.errors import DeploymentError
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import part_of
from sepnas.nets.segment_graph import weight_buffer
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Compute, Merge

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork

_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class NamedPlan:
    """A plan of a deployment, and the network as it is under it: with the plan's own statistics, merges and scales."""

    name: str
    plan: Plan
    network: SeparableNetwork | PartitionedNetwork
    calibration: Int8Calibration | None = None

    def steps(self, rank: int) -> list[Compute]:
        """Of each segment of a device the first step that computes it."""
        found: dict[str, Compute] = {}
        for step in self.plan.programs[rank]:
            if isinstance(step, Compute):
                found.setdefault(step.segment, step)
        return list(found.values())


@dataclass(frozen=True)
class GraphExport:
    """The graph files to write: those of ``exporter``, and those of ``quantised`` engines."""

    exporter: SegmentExporter
    quantised: tuple[EngineKind, ...] = ()

    def graphs(
        self,
        rank: int,
        named: NamedPlan,
        segment: Segment,
        step: Compute,
        module: nn.Module,
        weights: dict[str, Tensor],
    ) -> Iterator[tuple[str, bytes]]:
        """The segment's file for each engine that has its own."""
        shapes: list[Shape] = [named.plan.shapes[rank][name] for name in step.inputs]
        inputs = dict(zip(segment.inputs, shapes, strict=True))
        graphs = self.exporter.export(module, inputs, segment.outputs, weights)
        yield from graphs.items()
        for kind in self.quantised:
            assert named.calibration is not None
            base = kind.quantised_from
            exact = graphs.get(base)
            if exact is None:
                exact = SegmentExporter((base,)).export(module, inputs, segment.outputs, weights)[base]
            taken = named.calibration.inputs(rank, segment.name)
            yield kind.name, late(kind.export)(exact, list(weights.values()), taken)


@dataclass
class ShardWriter:
    """One device's segments and tensors; ``write`` takes a path in its folder and the content.

    ``segments`` are by name, ``aliases`` by plan (:class:`sepnas.deployment.plans.ShardPlan`), and ``tensors`` are all
    that a plan computes with.
    """

    rank: int
    facts: NetworkFacts
    graphs: GraphExport
    write: Callable[[str, bytes], None]
    segments: dict[str, SegmentFiles] = field(default_factory=dict)
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _paths: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, named: NamedPlan, done: Callable[[str], None]) -> None:
        """Write the graphs of a plan; ``done`` is told each segment's name."""
        aliases = self.aliases[named.name] = {}
        tensors = self.tensors[named.name] = {}
        for step in named.steps(self.rank):
            segment = named.plan.segments[self.rank][step.segment]
            module = part_of(named.network, self.rank, segment)
            keys = _keys(named, segment, module)
            own = segment_weights(module)
            self._keep(tensors, ((name, own[key]) for name, key in keys.items()))
            graphs = self.graphs.graphs(
                self.rank, named, segment, step, module, {key: own[key] for key in keys.values()}
            )  # fmt: skip
            entry = self._entry(named.name, segment, graphs, tuple(keys))
            if entry != segment.name:
                aliases[segment.name] = entry
            done(segment.name)
        self._keep(tensors, _numbers(named, self.rank).items())
        self._keep(tensors, normalisations(named.plan, self.rank, self.facts))

    def _keep(self, tensors: dict[str, Tensor], more: Iterable[tuple[str, Tensor]]) -> None:
        """Add tensors; raises :class:`DeploymentError` if another one has the same name."""
        for name, tensor in more:
            if not _equal(tensors.setdefault(name, tensor), tensor):
                raise DeploymentError(
                    f"device {self.rank}: two different tensors are called '{name}'; rename the weight or the input"
                )

    def write_tensors(self) -> None:
        """Write what plans share, and for each plan what differs from it."""
        shared: dict[str, Tensor] = {}
        for tensors in self.tensors.values():
            shared = {**tensors, **shared}
        self.write(WEIGHTS_NAME, weights_file(shared))
        for name, tensors in self.tensors.items():
            own = {key: tensor for key, tensor in tensors.items() if not _equal(tensor, shared[key])}
            if own:
                self.write(overlay_file(name), weights_file(own))

    def _entry(self, plan: str, segment: Segment, graphs: Iterator[tuple[str, bytes]], weights: Sequence[str]) -> str:
        """The name of the shard's segment: an equal one that is there, or a new one."""
        name = segment.name
        if name in self.segments:
            name = f"{segment.name[:_NAME_CHARACTERS]}.{plan}"
        while name in self.segments:
            name = f"{name}-"
        files = {engine: self._graph_path(name, engine, data) for engine, data in graphs}
        found = SegmentFiles(
            files=files, layers=segment.layers, inputs=segment.inputs, outputs=segment.outputs, weights=tuple(weights)
        )
        if self.segments.get(segment.name) == found:
            return segment.name
        self.segments[name] = found
        return name

    def _graph_path(self, segment: str, engine: str, data: bytes) -> str:
        """The path of a graph file; equal graphs are written once."""
        key = engine, hashlib.sha256(data).hexdigest()
        if key not in self._paths:
            self._paths[key] = f"segments/{segment}{all_engines()[engine].suffix}"
            self.write(self._paths[key], data)
        return self._paths[key]


def _keys(named: NamedPlan, segment: Segment, module: nn.Module) -> dict[str, str]:
    """The names of a segment's weights in the device's file, and in its module, in the graph's order."""
    if not segment.nodes:
        return weights_of(module, named.network, [weight.name for weight in segment.weights])
    assert isinstance(named.network, PartitionedNetwork)  # it made the module
    whole = {name: tuple(tensor.shape) for name, tensor in named.network.weights_by_name.items()}
    return {weight.stored(whole[weight.name]): weight_buffer(place) for place, weight in enumerate(segment.weights)}


def _numbers(named: NamedPlan, rank: int) -> Mapping[str, Tensor]:
    """The weights of the device's merges, and the scales of its messages."""
    merges = named.network.merge_weights(rank)
    needed = [step.parameter for step in named.plan.programs[rank] if isinstance(step, Merge) and step.parameter]
    scales = {message.scale for message in messages_of(named.plan, rank) if message.scale}
    return {name: merges[name] for name in needed} | {name: named.network.scale(name) for name in sorted(scales)}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
