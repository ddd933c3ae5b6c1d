"""The operators that a profile measures: those of the paper's family, from narrow to wide and small to large.

Of every other family there is one small network: its kinds of operators, between which others are interpolated. So
there is one for large images with each stem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from sepnas.plan.operators import Operator
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.backbones.registry import BACKBONES, DEFAULT_BACKBONE
from sepnas.separable.layer import Layer
from sepnas.separable.layers import device_layers
from sepnas.separable.stems.registry import STEMS
from sepnas.spec.figures import MAX_DEPTH

IMAGE_SIZES = (8, 16, 32)
"""Each with three stages: sides from 2 to 32; a stem of stride 2 equals that of the next smaller image."""
OUTPUT_CHANNELS = (8, 16, 32, 64)
PARTS = ((1, 4), (1, 8), (1, 16), (1, 32), (2, 8), (4, 4), (4, 16))
"""Groups of one device, and the bottleneck width of a group in the first stage."""
STEM_STRIDES = (1, 2)
LARGE_SIDE = 224
NUM_CLASSES = {8: 10, 16: 100, 32: 100}


def grid_networks() -> list[tuple[Layer, ...]]:
    """All networks of the grid, as layers."""
    return [*family_networks(), *_other_networks(), *_large_networks()]


def family_networks() -> Iterator[tuple[Layer, ...]]:
    """The single-device networks that span the grid, as layers."""
    for size, outputs, (groups, width), stride in product(IMAGE_SIZES, OUTPUT_CHANNELS, PARTS, STEM_STRIDES):
        if size // stride < IMAGE_SIZES[0]:
            continue
        part = DevicePart(cardinality=groups, bottleneck_width=width, output_channels=outputs)
        # two blocks per stage: one that changes the shape and one that keeps it
        yield device_layers(
            Architecture(depth=20, image_size=size, num_classes=NUM_CLASSES[size], stem_stride=stride, parts=(part,)), 0
        )


def _other_networks() -> Iterator[tuple[Layer, ...]]:
    """Of each other family, half of its example at the smallest depth, as layers."""
    for kind in BACKBONES.values():
        found = kind.match(kind.example)
        if kind.name == DEFAULT_BACKBONE or found is None:
            continue
        _, cardinality, width = found
        share = cardinality // 2
        depth = next(depth for depth in range(MAX_DEPTH) if kind.stages(depth))
        outputs = kind.output_channels(depth, share if kind.tied_outputs else cardinality, width)
        part = DevicePart(cardinality=share, bottleneck_width=width, output_channels=outputs)
        stem = kind.stem_channels(depth, cardinality, width)
        yield device_layers(Architecture(backbone=kind.name, depth=depth, stem_channels=stem, parts=(part,)), 0)


def _large_networks() -> Iterator[tuple[Layer, ...]]:
    """A share of a ResNet for large images, with each stem."""
    part = DevicePart(bottleneck_width=16, output_channels=64)
    for kind in STEMS.values():
        yield device_layers(
            Architecture(
                backbone="resnet", depth=10, image_size=LARGE_SIDE, stem=kind.name, stem_channels=32,
                stem_stride=max(kind.strides[:2]), parts=(part,),
            ), 0,
        )  # fmt: skip


def operators_of(networks: Sequence[Sequence[Layer]]) -> tuple[Operator, ...]:
    """Each operator once, in order of first occurrence."""
    every = (operator for network in networks for layer in network for operator in layer.operators)
    return tuple(dict.fromkeys(every))
