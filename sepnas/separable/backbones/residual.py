"""Pieces of residual networks: three stages for images of about 32 pixels, four for large ones; widths double."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from sepnas.separable.backbones.backbone import BlockPlace
from sepnas.separable.forms import ChannelGroups, ConvForm, LayerForm
from sepnas.separable.part import DevicePart

_NUM_STAGES = 3
_STEM_CHANNELS, _LARGE_STEM_CHANNELS = 16, 64
"""The published channels of the stem of networks with three stages, and with four."""
LARGE_BASIC: Mapping[int, tuple[int, ...]] = MappingProxyType({10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)})
"""The blocks of networks with four stages of basic blocks, by depth (table 1 of arXiv 1512.03385, and one below)."""
LARGE_BOTTLENECK: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
)
"""The same of bottleneck blocks. A depth of 101 has three stages, as each ``9n + 2``."""


def stages_of_depth(depth: int, layers_per_block: int, large: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The four stages of a depth of ``large``, or three stages of equally many blocks; empty for another depth.

    Three stages have ``3 * layers_per_block * n + 2`` layers.
    """
    number, rest = divmod(depth - 2, _NUM_STAGES * layers_per_block)
    return large.get(depth, (number,) * _NUM_STAGES if number > 0 and not rest else ())


def stem_channels(cardinality: int, width: int, is_large: bool) -> int:
    """The channels of a named network's stem: as many as the first stage's inner channels, if there are four stages."""
    return min(_LARGE_STEM_CHANNELS, cardinality * width) if is_large else _STEM_CHANNELS


def bottleneck(part: DevicePart, place: BlockPlace, inputs: ChannelGroups, groups: int) -> LayerForm:
    """1x1, 3x3 in ``groups``, 1x1, ReLU after the addition."""
    stride = 2 if place.opens_stage else 1
    middle = ChannelGroups(part.cardinality, part.bottleneck_width << place.stage)
    outputs = ChannelGroups(1, part.stage_channels(place.stage))
    convolutions = (
        ConvForm("reduce", inputs, middle),
        ConvForm("group", middle, middle, kernel=3, stride=stride, groups=groups),
        ConvForm("expand", middle, outputs, activation="none"),
    )
    return LayerForm(convolutions, shortcut=shortcut_for(inputs, outputs, stride), activation="relu")


def shortcut_for(inputs: ChannelGroups, outputs: ChannelGroups, stride: int) -> ConvForm | Literal["identity"]:
    """The identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and inputs.size == outputs.size:
        return "identity"
    return ConvForm("shortcut", inputs, outputs, stride=stride, activation="none")
