"""The layers of each device's part, with their costs in closed form. No torch.

Layers of a device, in order: ``stem``, ``block0`` ... ``block<n-1>``, ``head`` (global mean and classifier).
``sepnas.nets`` builds the same layers; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from sepnas.plan.merge_rules import MERGERS
from sepnas.plan.plan import Segment
from sepnas.plan.shapes import FLOAT_BYTES, Shape
from sepnas.plan.steps import Compute
from sepnas.separable.architecture import Architecture
from sepnas.separable.backbones.backbone import BlockPlace
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.separable.forms import Axes, LayerForm
from sepnas.separable.layer import Layer, make_head, make_layer
from sepnas.separable.part import DevicePart
from sepnas.separable.policy import ExchangePoint, Transfer, merge_rule, needs_weights


def _part_layers(architecture: Architecture, part: DevicePart, rank: int) -> tuple[Layer, ...]:
    backbone, stages = BACKBONES[architecture.backbone], architecture.stages
    channels = architecture.in_channels, architecture.stem_channels
    form = backbone.stem(architecture.stem, *channels, architecture.stem_stride)
    layers = [make_layer("stem", "stem", form, _image(architecture))]
    for block in range(stages.num_blocks):
        place = BlockPlace(*stages.place(block), architecture.stem_stride)
        form = backbone.block(part, place, form.outputs)
        layers.append(make_layer(f"block{block}", f"parts.{rank}.{block}", form, layers[-1].output))
    head = backbone.head(part, form.outputs, architecture.num_classes)
    return (*layers, make_head(f"heads.{rank}", head, layers[-1].output))


def _image(architecture: Architecture) -> Shape:
    return Shape.chw(architecture.in_channels, architecture.image_size, architecture.image_size)


class LayerRun(NamedTuple):
    """A computation of a device: the step, its segment, the shape of its output, and its memory for one sample: its
    input, which is kept until the end, and its activations."""

    step: Compute
    segment: Segment
    shape: Shape
    working_bytes: int


class PartTable:
    """The layers of one device's part, with all their segments and computations, each built once.

    A search lowers thousands of policies over the same parts, so everything independent of the policy is cached.
    """

    def __init__(self, rank: int, layers: tuple[Layer, ...], image: Shape) -> None:
        self.rank, self.layers, self.image = rank, layers, image
        self.outputs = tuple(layer.output for layer in layers)
        self.runs = _Runs(self)
        self._segments: dict[tuple[int, int], Segment] = {}

    def segment(self, first: int, last: int) -> Segment:
        """The segment from layer ``first`` to layer ``last``, inclusive."""
        found = self._segments.get((first, last))
        if found is None:
            found = self._segments[first, last] = self._make(self.layers[first : last + 1])
        return found

    def _make(self, layers: tuple[Layer, ...]) -> Segment:
        return Segment(
            name=layers[0].name if len(layers) == 1 else f"{layers[0].name}-{layers[-1].name}",
            device=self.rank,
            layers=tuple(layer.name for layer in layers),
            flops=2 * sum(layer.macs for layer in layers),
            num_kernels=sum(layer.num_kernels for layer in layers),
            weight_bytes=FLOAT_BYTES * sum(layer.num_weights for layer in layers),
            activation_bytes=FLOAT_BYTES * max(layer.peak_values for layer in layers),
            operators=tuple(operator for layer in layers for operator in layer.operators),
            weights=tuple(weight for layer in layers for weight in layer.weights),
        )


class _Runs(dict[tuple[int, int, str, str], LayerRun]):
    """Keyed by first and last layer, inclusive, and the names of the input and output tensors."""

    def __init__(self, table: PartTable) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, key: tuple[int, int, str, str]) -> LayerRun:
        first, last, tensor, output = key
        table = self.table
        segment, image = table.segment(first, last), table.outputs[first - 1] if first else table.image
        working_bytes = FLOAT_BYTES * image.num_values + segment.activation_bytes
        run = self[key] = LayerRun(
            Compute(segment.name, (tensor,), (output,)), segment, table.outputs[last], working_bytes
        )
        return run


_NUMBERS = ("backbone", "depth", "num_classes", "in_channels", "image_size", "stem", "stem_channels", "stem_stride")
_numbers_of: Callable[[Architecture], tuple[Any, ...]] = attrgetter(*_NUMBERS)


def network_table(architecture: Architecture) -> tuple[PartTable, ...]:
    """The parts of a network by rank; networks that differ only in their policy share one tuple."""
    return _network_table(_numbers_of(architecture), architecture.parts)


@lru_cache(maxsize=1024)
def _network_table(numbers: tuple[Any, ...], parts: tuple[DevicePart, ...]) -> tuple[PartTable, ...]:
    return tuple(_part_table(numbers, part, rank) for rank, part in enumerate(parts))


@lru_cache(maxsize=512)
def _part_table(numbers: tuple[Any, ...], part: DevicePart, rank: int) -> PartTable:
    """The table of one device's part, which does not depend on the other devices."""
    alone = Architecture.model_validate({**dict(zip(_NUMBERS, numbers, strict=True)), "parts": (part,)})
    return PartTable(rank, _part_layers(alone, part, rank), _image(alone))


def device_layers(architecture: Architecture, rank: int) -> tuple[Layer, ...]:
    """The layers of one device, including the head (which not every device runs)."""
    return network_table(architecture)[rank].layers


@lru_cache(maxsize=128)
def weight_axes(architecture: Architecture) -> Mapping[str, Axes]:
    """The axes of each tensor of the layers of all devices, by its name in the whole network."""
    parts = [device_layers(architecture, rank) for rank in range(architecture.num_devices)]
    return {
        weight.name: axes
        for layers in parts
        for layer in layers
        for weight, (_, axes) in zip(layer.weights, layer.form.weights(), strict=True)
    }


def merge_axes(architecture: Architecture, block: int, source: int, destination: int) -> Axes:
    """The axes of the matrix by which ``destination`` merges all channels of ``source``'s block: rows, columns."""
    forms = (device_layers(architecture, rank)[block + 1].form for rank in (destination, source))
    return tuple([form.outputs for form in forms if isinstance(form, LayerForm)])


def block_channels(architecture: Architecture, rank: int, block: int) -> int:
    """The channels that a block of a device outputs."""
    return network_table(architecture)[rank].outputs[block + 1].dims[0]


def stage_sides(architecture: Architecture) -> list[int]:
    """The pixels a side of the feature maps after each stage that has blocks."""
    outputs = network_table(architecture)[0].outputs
    return [outputs[block + 1].dims[1] for block in architecture.stages.ends]


def has_head(architecture: Architecture, rank: int) -> bool:
    readout = architecture.policy.readout
    return readout.kind == "mean" or rank == readout.device


def count_parameters(architecture: Architecture) -> int:
    """Trained numbers of the whole network; the stem, the same on every device, counts once.

    Includes the weights of learned merges (one for each transfer, or a matrix) and the learned scales of messages.
    """
    total = device_layers(architecture, 0)[0].num_parameters
    for rank in range(architecture.num_devices):
        layers = device_layers(architecture, rank)
        total += sum(layer.num_parameters for layer in layers[1 : None if has_head(architecture, rank) else -1])
    return total + _count_merge_weights(architecture) + len(architecture.policy.learned_scales())


def _count_merge_weights(architecture: Architecture) -> int:
    ranks = range(architecture.num_devices)
    return sum(each.number for rank in ranks for each in _merge_weights(architecture, rank))


class _MergeWeights(NamedTuple):
    """The ``number`` of weights of a learned merge after ``block``; each is of a convolution if it ``convolves``."""

    block: int
    convolves: bool
    number: int


def _merge_weights(architecture: Architecture, rank: int) -> Iterator[_MergeWeights]:
    for block in range(architecture.num_blocks):
        due = architecture.policy.arrivals(block, rank)
        if needs_weights(due):
            convolves = MERGERS[merge_rule(due)].convolves
            count = sum(math.prod(matrix_dims(architecture, *each)) if convolves else 1 for each in due)
            yield _MergeWeights(block, convolves, count)


def matrix_dims(architecture: Architecture, point: ExchangePoint, transfer: Transfer) -> tuple[int, int]:
    """The sizes of the matrix by which the receiver of a transfer merges it: its own channels, and those sent."""
    source, destination = (
        block_channels(architecture, rank, point.after) for rank in (transfer.source, transfer.destination)
    )
    return destination, transfer.num_channels(source, destination)


def count_macs(architecture: Architecture, rank: int) -> int:
    """Multiply-accumulates of one device for one sample: convolutions, its stem's and merges' too, and classifier."""
    layers = device_layers(architecture, rank)[: None if has_head(architecture, rank) else -1]
    return sum(layer.macs for layer in layers) + count_merge_macs(architecture, rank)


def count_merge_macs(architecture: Architecture, rank: int) -> int:
    """Multiply-accumulates of one device's merges for one sample."""
    layers = device_layers(architecture, rank)
    merges = (each for each in _merge_weights(architecture, rank) if each.convolves)
    return sum(each.number * math.prod(layers[each.block + 1].output.dims[1:]) for each in merges)
