"""VGG with batch norm (arXiv 1409.1556), as used on CIFAR: the mean of the last feature maps, and one classifier.

At any size the first convolution has stride 1 as published, unless another stem is chosen.

Depth 11, 13, 16 or 19: 8 to 16 convolutions of 3x3 in five stages. The first one is the stem; a block is one
convolution, after a 2x2 max-pool where a stage begins. The global mean stands for the last max-pool.

A device's part is a complete narrow VGG: in stages 0 to 4, its blocks output ``cardinality * bottleneck_width`` times
1, 2, 4, 8 and 8 channels. ``output_channels`` is the first of these numbers, and follows from the others.
``vgg16_1x64`` is the published VGG-16 without its fully connected layers, and so is ``vgg16_4x16`` on one device.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone, BlockPlace, SmallestSize
from sepnas.separable.forms import ChannelGroups, ConvForm, LayerForm, PoolForm
from sepnas.separable.part import DevicePart
from sepnas.separable.stems.registry import DEFAULT_STEM

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_GROWTH = (1, 2, 4, 8, 8)


def _stages(depth: int) -> tuple[int, ...]:
    first, *others = _CONVOLUTIONS.get(depth, (0,))
    return (first - 1, *others) if others else ()


def _block(part: DevicePart, place: BlockPlace, inputs: ChannelGroups) -> LayerForm:
    outputs = ChannelGroups(part.cardinality, part.bottleneck_width * _GROWTH[place.stage])
    layer = ConvForm("layer", inputs, outputs, kernel=3)
    return LayerForm((layer,), pool=PoolForm(2, 2) if place.opens_stage else None)


BACKBONE = Backbone(
    name="vgg",
    order=3,
    pattern="vgg{depth}_{cardinality}x{width}",
    example="vgg11_4x16",
    depths="11, 13, 16 or 19",
    numbers="`cardinality` x `bottleneck_width` channels for each block; leave `output_channels` out",
    stages=_stages,
    block=_block,
    output_channels=lambda depth, cardinality, width: cardinality * width,
    tied_outputs=True,
    stem_channels=lambda depth, cardinality, width: cardinality * width,
    stems=(SmallestSize(0, DEFAULT_STEM, 1),),
    min_side=2 ** (len(_GROWTH) - 1),
)
