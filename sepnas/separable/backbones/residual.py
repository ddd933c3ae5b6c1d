"""Pieces of residual networks for images of about 32 pixels: three stages, whose widths double."""

from __future__ import annotations

from typing import Literal

from sepnas.separable.backbones.backbone import BlockPlace
from sepnas.separable.forms import ChannelGroups, ConvForm, LayerForm
from sepnas.separable.part import DevicePart

_NUM_STAGES = 3


def even_stages(depth: int, layers_per_block: int) -> tuple[int, ...]:
    """Three stages of equally many blocks, for ``3 * layers_per_block * n + 2`` layers; empty for another depth."""
    number, rest = divmod(depth - 2, _NUM_STAGES * layers_per_block)
    return (number,) * _NUM_STAGES if number > 0 and not rest else ()


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
