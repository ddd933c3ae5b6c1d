"""ResNets of bottleneck blocks (arXiv 1512.03385, figure 5), named with a ``b``: ``resnet164b_1x16``.

Depth ``9n + 2``, for images of about 32 pixels: three stages of ``n`` blocks (1x1, 3x3, 1x1), a classifier. Depth 14,
26, 50 or 152, for large images: four stages; ``resnet50b_1x64`` is the published ResNet-50 with the stride in the 3x3
convolution. A device's part has, in stage s (from 0), ``cardinality * bottleneck_width * 2**s`` inner channels in one
dense 3x3 convolution, and all ``output_channels * 2**s`` of the block's output, by default four times the inner
channels of all devices. With a cardinality of 1 this is a ResNeXt.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.residual import LARGE_BOTTLENECK, bottleneck, stages_of_depth, stem_channels

_EXPANSION = 4

BACKBONE = Backbone(
    name="resnet-bottleneck",
    order=2,
    pattern="resnet{depth}b_{cardinality}x{width}",
    example="resnet56b_4x4",
    depths="9n + 2 (11, 20, 29, ...), or for large images 14, 26, 50 or 152",
    numbers="`cardinality` x `bottleneck_width` inner channels, `output_channels` for each block",
    stages=lambda depth: stages_of_depth(depth, 3, LARGE_BOTTLENECK),
    block=lambda part, place, inputs: bottleneck(part, place, inputs, groups=1),
    output_channels=lambda depth, cardinality, width: _EXPANSION * cardinality * width,
    stem_channels=lambda depth, cardinality, width: stem_channels(cardinality, width, depth in LARGE_BOTTLENECK),
)
