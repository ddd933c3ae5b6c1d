"""ResNets of basic blocks (arXiv 1512.03385), with 1x1 convolutions where the shape changes.

Depth ``6n + 2``, for images of about 32 pixels: three stages of ``n`` blocks of two 3x3 convolutions, a classifier.
``resnet20_1x16`` is the published ResNet-20, and so is ``resnet20_4x4``: on one device, the groups are one dense layer.
Depth 10, 18 or 34, for large images: four stages; ``resnet18_1x64`` is the published ResNet-18.

A device's part has, in stage s (from 0), ``cardinality * bottleneck_width * 2**s`` of the channels between the two
convolutions, and all ``output_channels * 2**s`` of the block's output. So an average over all devices is, up to
scaling, the sum of the original's second convolution.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone, BlockPlace
from sepnas.separable.backbones.residual import LARGE_BASIC, shortcut_for, stages_of_depth, stem_channels
from sepnas.separable.forms import ChannelGroups, ConvForm, LayerForm
from sepnas.separable.part import DevicePart


def _block(part: DevicePart, place: BlockPlace, inputs: ChannelGroups) -> LayerForm:
    stride = 2 if place.opens_stage else 1
    middle = ChannelGroups(part.cardinality, part.bottleneck_width << place.stage)
    outputs = ChannelGroups(1, part.stage_channels(place.stage))
    convolutions = (
        ConvForm("first", inputs, middle, kernel=3, stride=stride),
        ConvForm("second", middle, outputs, kernel=3, activation="none"),
    )
    return LayerForm(convolutions, shortcut=shortcut_for(inputs, outputs, stride), activation="relu")


BACKBONE = Backbone(
    name="resnet",
    order=1,
    pattern="resnet{depth}_{cardinality}x{width}",
    example="resnet20_4x4",
    depths="6n + 2 (8, 14, 20, ...), or for large images 10, 18 or 34",
    numbers="`cardinality` x `bottleneck_width` inner channels, `output_channels` for each block",
    stages=lambda depth: stages_of_depth(depth, 2, LARGE_BASIC),
    block=_block,
    output_channels=lambda depth, cardinality, width: cardinality * width,
    stem_channels=lambda depth, cardinality, width: stem_channels(cardinality, width, depth in LARGE_BASIC),
)
