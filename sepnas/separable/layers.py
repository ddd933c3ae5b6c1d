"""What each layer of each device's part costs, in closed form: shapes, MACs, weights. No torch.

Layers of a device, in order: ``stem``, ``block0`` ... ``block<n-1>``, ``head`` (global mean and classifier).
``sepnas.nets`` builds the same layers; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sepnas.plan.steps import Compute, Operator, Segment, Shape
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.policy import needs_weights

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer for one sample. ``peak_values``: input, output and what lies between while it runs.

    ``num_parameters`` are trained numbers, ``num_weights`` all numbers stored (with BN statistics);
    ``num_kernels`` counts what an engine launches (convolutions and the classifier).
    """

    name: str
    macs: int
    num_parameters: int
    num_weights: int
    output: Shape
    peak_values: int
    num_kernels: int
    operators: tuple[Operator, ...]


def _conv(inputs: int, outputs: int, side: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Operator:
    """A convolution (no bias) with batch norm, onto side x side."""
    return Operator("conv", inputs, outputs, kernel, stride, groups, side, side)


def _conv_layer(name: str, convolutions: list[Operator], others: list[Operator], output: Shape, peak: int) -> Layer:
    """A layer of convolutions with batch norm: two trained numbers and two statistics for each of their channels."""
    weights, channels = sum(c.num_weights for c in convolutions), sum(c.out_channels for c in convolutions)
    return Layer(
        name=name,
        macs=sum(c.macs for c in convolutions),
        num_parameters=weights + 2 * channels,
        num_weights=weights + 4 * channels,
        output=output,
        peak_values=peak,
        num_kernels=len(convolutions),
        operators=(*convolutions, *others),
    )


def _block(architecture: Architecture, part: DevicePart, block: int, shape: Shape) -> Layer:
    stage = architecture.stage_of(block)
    first = block > 0 and architecture.stage_of(block - 1) != stage
    stride = 2 if first else 1
    side = -(-shape.height // stride)
    inputs, middle, outputs = shape.channels, part.bottleneck_channels(stage), part.stage_channels(stage)
    convolutions = [
        _conv(inputs, middle, shape.height),
        _conv(middle, middle, side, kernel=3, stride=stride, groups=part.cardinality),
        _conv(middle, outputs, side),
    ]
    if stride != 1 or inputs != outputs:
        convolutions.append(_conv(inputs, outputs, side, stride=stride))
    add = Operator("add", outputs, outputs, height=side, width=side)
    output = Shape(outputs, side, side)
    peak = shape.num_values + output.num_values + middle * (shape.height**2 + side**2)
    return _conv_layer(f"block{block}", convolutions, [add], output, peak)


def _stem(architecture: Architecture) -> Layer:
    side = -(-architecture.image_size // architecture.stem_stride)
    conv = _conv(architecture.in_channels, architecture.stem_channels, side, kernel=3, stride=architecture.stem_stride)
    output = Shape(architecture.stem_channels, side, side)
    image_values = architecture.in_channels * architecture.image_size**2
    return _conv_layer("stem", [conv], [], output, image_values + 2 * output.num_values)


def _head(features: Shape, num_classes: int) -> Layer:
    mean = Operator("pool", features.channels, features.channels, kernel=features.height, stride=features.height)
    linear = Operator("linear", features.channels, num_classes)
    parameters = (features.channels + 1) * num_classes
    peak = features.num_values + features.channels + num_classes
    return Layer("head", linear.macs, parameters, parameters, Shape(num_classes), peak, 1, (mean, linear))


def _part_layers(architecture: Architecture, part: DevicePart) -> tuple[Layer, ...]:
    layers = [_stem(architecture)]
    for block in range(architecture.num_blocks):
        layers.append(_block(architecture, part, block, layers[-1].output))
    layers.append(_head(layers[-1].output, architecture.num_classes))
    return tuple(layers)


class LayerRun(NamedTuple):
    """A computation of a device: the step, what it runs, the shape of what comes out, and what it needs of memory for
    one sample: its input, which is kept until the end, and its activations."""

    step: Compute
    segment: Segment
    shape: Shape
    working_bytes: int


class PartTable:
    """The layers of one device's part, every segment of them and every computation, each made once.

    A search lowers thousands of policies over the same parts: what does not depend on the policy is kept.
    """

    def __init__(self, rank: int, layers: tuple[Layer, ...], image: Shape) -> None:
        self.rank, self.layers, self.image = rank, layers, image
        self.outputs = tuple(layer.output for layer in layers)
        self.runs = _Runs(self)
        self._segments: dict[tuple[int, int], Segment] = {}

    def segment(self, first: int, last: int) -> Segment:
        """The segment from layer ``first`` to layer ``last``, both included."""
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
        )


class _Runs(dict[tuple[int, int, str, str], LayerRun]):
    """By first and last layer, both included, and the names of the tensors that go in and come out."""

    def __init__(self, table: PartTable) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, key: tuple[int, int, str, str]) -> LayerRun:
        first, last, tensor, output = key
        table = self.table
        segment, image = table.segment(first, last), table.outputs[first - 1] if first else table.image
        working_bytes = FLOAT_BYTES * image.num_values + segment.activation_bytes
        run = self[key] = LayerRun(
            Compute(segment.name, (tensor,), output), segment, table.outputs[last], working_bytes
        )
        return run


_NUMBERS = ("depth", "num_classes", "in_channels", "image_size", "stem_channels", "stem_stride")
_numbers_of: Callable[[Architecture], tuple[int, ...]] = attrgetter(*_NUMBERS)


def network_table(architecture: Architecture) -> tuple[PartTable, ...]:
    """The parts of a network by rank; networks that differ only in their policy share them."""
    return _network_table(_numbers_of(architecture), architecture.parts)


@lru_cache(maxsize=1024)
def _network_table(numbers: tuple[int, ...], parts: tuple[DevicePart, ...]) -> tuple[PartTable, ...]:
    return tuple(_part_table(numbers, part, rank) for rank, part in enumerate(parts))


@lru_cache(maxsize=512)
def _part_table(numbers: tuple[int, ...], part: DevicePart, rank: int) -> PartTable:
    """A device's part is the same whatever the others are."""
    alone = Architecture.model_validate({**dict(zip(_NUMBERS, numbers, strict=True)), "parts": (part,)})
    image = Shape(alone.in_channels, alone.image_size, alone.image_size)
    return PartTable(rank, _part_layers(alone, part), image)


def device_layers(architecture: Architecture, rank: int) -> tuple[Layer, ...]:
    """The layers of one device, head included (not every device runs its head)."""
    return network_table(architecture)[rank].layers


def has_head(architecture: Architecture, rank: int) -> bool:
    readout = architecture.policy.readout
    return readout.kind == "mean" or rank == readout.device


def count_parameters(architecture: Architecture) -> int:
    """Trained numbers of the whole network; the stem, the same on every device, counts once.

    Weights of ``weighted`` merges count, one for each transfer, and learned scales of messages.
    """
    total = device_layers(architecture, 0)[0].num_parameters
    for rank in range(architecture.num_devices):
        layers = device_layers(architecture, rank)
        total += sum(layer.num_parameters for layer in layers[1 : None if has_head(architecture, rank) else -1])
    return total + _count_merge_weights(architecture) + len(architecture.policy.learned_scales())


def _count_merge_weights(architecture: Architecture) -> int:
    total = 0
    for block in range(architecture.num_blocks):
        for rank in range(architecture.num_devices):
            due = architecture.policy.arrivals(block, rank)
            total += len(due) if needs_weights(due) else 0
    return total


def count_macs(architecture: Architecture, rank: int) -> int:
    """Multiply-accumulates of one device for one sample: convolutions and classifier, its stem included."""
    layers = device_layers(architecture, rank)
    return sum(layer.macs for layer in layers[: None if has_head(architecture, rank) else -1])
