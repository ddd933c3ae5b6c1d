"""Weights of separated networks that fit what devices have in fact, measured beside the original on the same images.

Both networks are computed layer by layer. Where a device estimates channels, the estimate is fitted anew
(:mod:`sepnas.separation.refit`). Batch norms keep the original's statistics, moved by what separating changes: the
difference between both networks on the same images. Measured anew, statistics would change even where nothing is lost:
few images say little of a mean, and training saw them augmented.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sepnas.nets.channel_statistics import rows_of
from sepnas.nets.crossings import Crossings
from sepnas.nets.graph import last_uses
from sepnas.nets.separated import arrays_of
from sepnas.nets.trainable import STATISTICS, TrainableGraph, norms_of
from sepnas.partition.graph import Graph, GraphNode
from sepnas.separation.channels import ChannelMap
from sepnas.separation.importance import Weights, weight_of
from sepnas.separation.mixtures import Estimate
from sepnas.separation.pieces import EstimatedBias, EstimatedInput, Recipe, WeightPiece
from sepnas.separation.refit import Joint, refitted
from sepnas.separation.relations import MixingLayer
from sepnas.separation.statistics import Array

MEMORY_BYTES = 1 << 30
"""The most for the tensors of both networks that are needed at a time; fewer samples are taken if they are large."""
Samples: TypeAlias = Sequence[tuple[Tensor, ...]]
"""Inputs of the network ``(B, ...)``, in batches."""
_Reading: TypeAlias = tuple[str, str]
"""A tensor of the original, and the one from which a device estimates its channels; views may share the latter."""


class _Side:
    """One of the networks, computed up to a node for all samples."""

    def __init__(self, network: TrainableGraph, samples: Samples) -> None:
        self.network, self.place = network.eval(), 0
        self.values = [network.started(each) for each in samples]
        self.counts = [len(each[0]) for each in samples]

    def until(self, place: int) -> None:
        """Compute all nodes before this place."""
        while self.place < place:
            for values, count in zip(self.values, self.counts, strict=True):
                self.network.compute(self.place, values, count)
            self.place += 1

    def operand(self, place: int, role: str) -> list[Tensor]:
        """What the node at this place takes in a role, as it arrives, for each batch; nodes before it are computed."""
        assert self.place <= place, self.network.graph.nodes[place].name  # both graphs have their nodes in one order
        self.until(place)
        return [self.network.operands(place, values)[role] for values in self.values]


class FittedWeights:
    """Fits the weights of what a network is separated into; ``samples`` are inputs of the network ``(B, ...)``."""

    def __init__(self, channels: ChannelMap, weights: Mapping[str, Tensor], samples: Samples) -> None:
        self.channels, self.graph, self.weights, self.samples = channels, channels.graph, weights, samples
        self.arrays = arrays_of(weights)
        self.places = {node.name: place for place, node in enumerate(self.graph.nodes)}
        norms = [(node.inputs[STATISTICS[0]], node) for node in norms_of(self.graph)]
        readers = Counter(name for name, _ in norms)
        self.norms = {name: node for name, node in norms if readers[name] == 1}
        """The norms that have statistics of their own, by the name of the running mean."""

    def of(self, graph: Graph, cut: Mapping[str, Tensor], recipe: Recipe, crossings: Crossings) -> dict[str, Tensor]:
        """The weights of a separated network, given those that were ``cut`` by its recipe.

        Without samples, and where nothing is estimated, they stay as they are.
        """
        if not self.samples or not any(isinstance(each, EstimatedInput) for each in recipe.values()):
            return dict(cut)
        samples = self._samples_within_memory(graph)
        original, separated = TrainableGraph(self.graph, self.weights), TrainableGraph(graph, cut, crossings)
        then, now = _Side(original, samples), _Side(separated, samples)
        fits = _Fitting(self, recipe, then, now)
        with torch.no_grad():
            for place, node in enumerate(graph.nodes):
                fits.node(place, node)
        return separated.weights_by_name

    def _samples_within_memory(self, graph: Graph) -> Samples:
        """The samples; if all would need too much memory, some of them, evenly spread."""
        each = 4 * (_needed_elements(self.graph) + _needed_elements(graph))
        total, largest = sum(len(batch[0]) for batch in self.samples), max(1, MEMORY_BYTES // each)
        return self.samples if total <= largest else list(_every(-(-total // largest), self.samples))


def _every(step: int, samples: Samples) -> Iterator[tuple[Tensor, ...]]:
    """One of ``step`` samples, counted over all batches."""
    passed = 0
    for batch in samples:
        kept = tuple(x[-passed % step :: step] for x in batch)
        passed += len(batch[0])
        if len(kept[0]):
            yield kept


class _Fitting:
    """Fits one separated network, in the order of its nodes."""

    def __init__(self, of: FittedWeights, recipe: Recipe, then: _Side, now: _Side) -> None:
        self.of, self.recipe, self.then, self.now = of, recipe, then, now
        self.estimates: dict[_Reading, Estimate] = {}
        self.readers: defaultdict[_Reading, list[EstimatedInput]] = defaultdict(list)
        """The weights that read an estimate."""
        for node in now.network.graph.nodes:
            for made in map(recipe.get, node.inputs.values()):
                if isinstance(made, EstimatedInput):
                    self.readers[_reading(node, made.layer)].append(made)
        self.spreads: dict[str, tuple[Tensor, Tensor]] = {}
        """The mean and the variance of what the original's norms take, by the name of the running mean."""
        self.norms = Counter(node.inputs[STATISTICS[0]] for node in norms_of(now.network.graph))

    def node(self, place: int, node: GraphNode) -> None:
        """Fit what a node is computed with, from what it takes."""
        for role, name in node.inputs.items():
            made = self.recipe.get(name)
            if isinstance(made, EstimatedInput):
                self._estimated(place, node, role, made)
            elif role == STATISTICS[0] and isinstance(made, WeightPiece):
                norm = self.of.norms.get(made.source)
                if norm is not None and self.norms[name] == 1:
                    self._moved(place, node, made, norm)

    def _estimated(self, place: int, node: GraphNode, role: str, made: EstimatedInput) -> None:
        bias = self.recipe.get(node.inputs.get("bias", ""))
        if not isinstance(bias, EstimatedBias) or sum(self.now.counts) < 2:
            return
        layer, reading = made.layer, _reading(node, made.layer)
        if reading not in self.estimates:
            taken = layer.operand_role
            before = self.then.operand(self.of.places[layer.node.name], taken)
            halves = self._halves(layer.operand, before, self.now.operand(place, taken))
            readers = np.concatenate([_rows_of_weight(each, self.of.arrays) for each in self.readers[reading]])
            if len(readers) > readers.shape[1]:
                readers = np.asarray(np.linalg.qr(readers, mode="r"))  # has the same products, in fewer rows
            self.estimates[reading] = refitted(made.estimate, halves, readers)
        estimate = self.estimates[reading]
        self._set(node.inputs[role], replace(made, estimate=estimate).made(self.of.arrays))
        self._set(node.inputs["bias"], replace(bias, estimate=estimate).made(self.of.arrays))

    def _halves(self, tensor: str, before: Sequence[Tensor], now: Sequence[Tensor]) -> list[Joint]:
        """The original's channels beside what a device has, of every second image."""
        axis, share = self.of.channels.axis(tensor), self.of.channels.padding_share(tensor)
        halves, passed = (_Sums(axis), _Sums(axis)), 0
        for x, z, count in zip(before, now, self.now.counts, strict=True):
            for place, half in enumerate(halves):
                first = (passed + place) % 2
                if first < count:
                    half.add(_every_second(x, count, first), _every_second(z, count, first))
            passed += count
        return [each.joint().padded(share) for each in halves]

    def _moved(self, place: int, node: GraphNode, piece: WeightPiece, norm: GraphNode) -> None:
        """Move a norm's statistics by what separating changes: the mean by a difference, the variance by a ratio."""
        if piece.source not in self.spreads:
            self.spreads[piece.source] = _spread(self.then.operand(self.of.places[norm.name], "input"))
        mean_before, variance_before = (_taken(each, piece) for each in self.spreads[piece.source])
        mean, variance = _spread(self.now.operand(place, "input"))
        eps = self.now.network.graph.use(node).get("eps", 1e-5)
        means, variances = (self.now.network.weight(node.inputs[role]) for role in STATISTICS)
        means += mean - mean_before
        variances *= (variance + eps) / (variance_before + eps)

    def _set(self, name: str, value: npt.NDArray[np.generic]) -> None:
        self.now.network.weight(name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


class _Sums:
    """Sums over positions of the original's channels and of what a device has of them, along an axis of both."""

    def __init__(self, axis: int) -> None:
        self.axis, self.count = axis, 0
        self.sums: tuple[Tensor, ...] = ()

    def add(self, x: Tensor, z: Tensor) -> None:
        targets, values = rows_of(x, self.axis), rows_of(z, self.axis)
        if not self.sums:
            of_targets, of_values = len(targets), len(values)
            shapes = (of_targets,), (of_values,), (of_targets, of_values), (of_values, of_values)
            self.sums = tuple(torch.zeros(shape, dtype=targets.dtype) for shape in shapes)
        self.count += values.shape[1]
        self.sums[0].add_(targets.sum(1))
        self.sums[1].add_(values.sum(1))
        self.sums[2].addmm_(targets, values.T)
        self.sums[3].addmm_(values, values.T)

    def joint(self) -> Joint:
        return Joint(self.count, *(each.numpy() for each in self.sums))


def _spread(batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean and the variance ``(C,)`` of the channels of all batches ``(B, C, ...)``, in double precision."""
    rows = [x.reshape(*x.shape[:2], -1) for x in batches]
    count = sum(map(len, rows))
    mean = torch.stack([x.mean(2).double().sum(0) for x in rows]).sum(0) / count
    centre = mean.to(rows[0].dtype)[:, None]  # about it, single precision suffices for the sums of one image
    squares = torch.stack([(x - centre).square_().mean(2).double().sum(0) for x in rows]).sum(0)
    return mean, squares / count


def _reading(node: GraphNode, layer: MixingLayer) -> _Reading:
    """What a node of a separated network reads, given its layer of the original."""
    return layer.operand, node.inputs[layer.operand_role]


def _rows_of_weight(made: EstimatedInput, arrays: Weights) -> Array:
    """The weight of a layer for all channels of its operand, ``(outputs times taps, C)``."""
    weight = weight_of(made.layer, arrays)[made.outputs]
    return np.asarray(np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]))


def _every_second(x: Tensor, count: int, first: int) -> Tensor:
    """What a batch of ``count`` images, which may have several rows each, has of every second one."""
    if len(x) == count or len(x) % count:
        return x[first::2]
    return x.reshape(count, -1, *x.shape[1:])[first::2].flatten(0, 1)


def _taken(x: Tensor, piece: WeightPiece) -> Tensor:
    """The channels ``(C,)`` of a weight's piece."""
    places = piece.places.get(0)
    return x if places is None else x[torch.as_tensor(places)]


def _needed_elements(graph: Graph) -> int:
    """The most elements of one sample that are needed at a time."""
    last, sizes = last_uses(graph), {name: prod(each.dims) for name, each in graph.tensors.items()}
    now = most = sum(sizes[name] for name in graph.inputs)
    for place, node in enumerate(graph.nodes):
        now += sum(sizes[name] for name in node.outputs)
        most = max(most, now)
        now -= sum(sizes[name] for name in last.get(place, ()) if name not in graph.stored)
    return most
