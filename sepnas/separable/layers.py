"""The cost of each layer of each device's part, in closed form: shapes, MACs, weights. No torch.

Layers of a device, in order: ``stem``, ``block0`` ... ``block<n-1>``, ``head`` (global mean and classifier).
``sepnas.nets`` builds the same layers; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from sepnas.plan.operators import Operator
from sepnas.plan.plan import Segment, WeightSlice
from sepnas.plan.shapes import FLOAT_BYTES, Region, Shape
from sepnas.plan.steps import Compute
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.policy import needs_weights


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer for one sample. ``peak_values``: input, output and intermediate values while it runs.

    ``num_parameters`` counts trained numbers, ``num_weights`` all stored numbers (with BN statistics);
    ``num_kernels`` counts the kernels that an engine launches (convolutions and the classifier). ``weights`` are named
    as in the whole network.
    """

    name: str
    macs: int
    num_parameters: int
    num_weights: int
    output: Shape
    peak_values: int
    num_kernels: int
    operators: tuple[Operator, ...]
    weights: tuple[WeightSlice, ...]


def _conv(inputs: int, outputs: int, side: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Operator:
    """A convolution (no bias) with batch norm and an output of side x side."""
    return Operator("conv", inputs, outputs, kernel, stride, groups, side, side)


def _conv_layer(
    name: str, place: str, convolutions: dict[str, Operator], others: list[Operator], output: Shape, peak: int
) -> Layer:
    """A layer of convolutions with batch norm: two trained numbers and two statistics per output channel.

    ``convolutions`` are keyed by their name below ``place``, the layer's name in the whole network.
    """
    each = convolutions.values()
    num_weights, channels = sum(c.num_weights for c in each), sum(c.out_channels for c in each)
    return Layer(
        name=name,
        macs=sum(c.macs for c in each),
        num_parameters=num_weights + 2 * channels,
        num_weights=num_weights + 4 * channels,
        output=output,
        peak_values=peak,
        num_kernels=len(convolutions),
        operators=(*each, *others),
        weights=tuple(weight for key, conv in convolutions.items() for weight in _conv_weights(f"{place}.{key}", conv)),
    )


def _conv_weights(place: str, conv: Operator) -> list[WeightSlice]:
    outputs = conv.out_channels
    kernel = _weight(f"{place}.conv.weight", outputs, conv.in_channels // conv.groups, conv.kernel, conv.kernel)
    norm = ("weight", "bias", "running_mean", "running_var")
    return [kernel, *(_weight(f"{place}.bn.{name}", outputs) for name in norm)]


def _weight(name: str, *dims: int) -> WeightSlice:
    return WeightSlice(name, Region(tuple([(0, size) for size in dims])))


def _block(architecture: Architecture, part: DevicePart, rank: int, block: int, shape: Shape) -> Layer:
    stage = architecture.stage_of(block)
    first = block > 0 and architecture.stage_of(block - 1) != stage
    stride = 2 if first else 1
    inputs, height, _ = shape.dims
    side = -(-height // stride)
    middle, outputs = part.bottleneck_channels(stage), part.stage_channels(stage)
    convolutions = {
        "reduce": _conv(inputs, middle, height),
        "group": _conv(middle, middle, side, kernel=3, stride=stride, groups=part.cardinality),
        "expand": _conv(middle, outputs, side),
    }
    if stride != 1 or inputs != outputs:
        convolutions["shortcut"] = _conv(inputs, outputs, side, stride=stride)
    add = Operator("add", outputs, outputs, height=side, width=side)
    output = Shape.chw(outputs, side, side)
    peak = shape.num_values + output.num_values + middle * (height**2 + side**2)
    return _conv_layer(f"block{block}", f"parts.{rank}.{block}", convolutions, [add], output, peak)


def _stem(architecture: Architecture) -> Layer:
    side = -(-architecture.image_size // architecture.stem_stride)
    conv = _conv(architecture.in_channels, architecture.stem_channels, side, kernel=3, stride=architecture.stem_stride)
    output = Shape.chw(architecture.stem_channels, side, side)
    image_values = architecture.in_channels * architecture.image_size**2
    return _conv_layer("stem", "stem", {"layer": conv}, [], output, image_values + 2 * output.num_values)


def _head(features: Shape, rank: int, num_classes: int) -> Layer:
    channels, height, _ = features.dims
    mean = Operator("pool", channels, channels, kernel=height, stride=height)
    linear = Operator("linear", channels, num_classes)
    parameters = (channels + 1) * num_classes
    peak = features.num_values + channels + num_classes
    place = f"heads.{rank}.classifier"
    weights = (_weight(f"{place}.weight", num_classes, channels), _weight(f"{place}.bias", num_classes))
    output = Shape.vector(num_classes)
    return Layer("head", linear.macs, parameters, parameters, output, peak, 1, (mean, linear), weights)


def _part_layers(architecture: Architecture, part: DevicePart, rank: int) -> tuple[Layer, ...]:
    layers = [_stem(architecture)]
    for block in range(architecture.num_blocks):
        layers.append(_block(architecture, part, rank, block, layers[-1].output))
    layers.append(_head(layers[-1].output, rank, architecture.num_classes))
    return tuple(layers)


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


_NUMBERS = ("depth", "num_classes", "in_channels", "image_size", "stem_channels", "stem_stride")
_numbers_of: Callable[[Architecture], tuple[int, ...]] = attrgetter(*_NUMBERS)


def network_table(architecture: Architecture) -> tuple[PartTable, ...]:
    """The parts of a network by rank; networks that differ only in their policy share one tuple."""
    return _network_table(_numbers_of(architecture), architecture.parts)


@lru_cache(maxsize=1024)
def _network_table(numbers: tuple[int, ...], parts: tuple[DevicePart, ...]) -> tuple[PartTable, ...]:
    return tuple(_part_table(numbers, part, rank) for rank, part in enumerate(parts))


@lru_cache(maxsize=512)
def _part_table(numbers: tuple[int, ...], part: DevicePart, rank: int) -> PartTable:
    """The table of one device's part, which does not depend on the other devices."""
    alone = Architecture.model_validate({**dict(zip(_NUMBERS, numbers, strict=True)), "parts": (part,)})
    image = Shape.chw(alone.in_channels, alone.image_size, alone.image_size)
    return PartTable(rank, _part_layers(alone, part, rank), image)


def device_layers(architecture: Architecture, rank: int) -> tuple[Layer, ...]:
    """The layers of one device, including the head (which not every device runs)."""
    return network_table(architecture)[rank].layers


def has_head(architecture: Architecture, rank: int) -> bool:
    readout = architecture.policy.readout
    return readout.kind == "mean" or rank == readout.device


def count_parameters(architecture: Architecture) -> int:
    """Trained numbers of the whole network; the stem, the same on every device, counts once.

    Includes the weights of ``weighted`` merges, one for each transfer, and the learned scales of messages.
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
