"""Which operators a profile measures: those of networks of the family, from narrow to wide and from small to large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from sepnas.plan.operators import Operator
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.layers import Layer, device_layers

IMAGE_SIZES = (8, 16, 32)
"""With three stages each: sides from 2 to 32; a stem of stride 2 is the next smaller image's."""
OUTPUT_CHANNELS = (8, 16, 32, 64)
PARTS = ((1, 4), (1, 8), (1, 16), (1, 32), (2, 8), (4, 4), (4, 16))
"""Groups of one device, and the bottleneck width of each in the first stage."""
STEM_STRIDES = (1, 2)
NUM_CLASSES = {8: 10, 16: 100, 32: 100}


def family_networks() -> Iterator[tuple[Layer, ...]]:
    """The networks of one device that span the grid, by their layers."""
    for size, outputs, (groups, width), stride in product(IMAGE_SIZES, OUTPUT_CHANNELS, PARTS, STEM_STRIDES):
        if size // stride < IMAGE_SIZES[0]:
            continue
        part = DevicePart(cardinality=groups, bottleneck_width=width, output_channels=outputs)
        # two blocks a stage: one that changes the shape, one that does not
        yield device_layers(
            Architecture(depth=20, image_size=size, num_classes=NUM_CLASSES[size], stem_stride=stride, parts=(part,)), 0
        )


def operators_of(networks: Sequence[Sequence[Layer]]) -> tuple[Operator, ...]:
    """Each operator once, in the order in which they come."""
    every = (operator for network in networks for layer in network for operator in layer.operators)
    return tuple(dict.fromkeys(every))
