"""CIFAR ResNets of bottleneck blocks (arXiv 1512.03385, figure 5), named with a ``b``: ``resnet164b_1x16``.

Depth ``9n + 2``: a 3x3 stem, three stages of ``n`` blocks (1x1, 3x3, 1x1), a classifier. A device's part has, in stage
s (from 0), ``cardinality * bottleneck_width * 2**s`` inner channels in one dense 3x3 convolution, and all
``output_channels * 2**s`` of the block's output, by default four times the inner channels of all devices. With a
cardinality of 1 this is a ResNeXt.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.residual import bottleneck, even_stages

_EXPANSION = 4

BACKBONE = Backbone(
    name="resnet-bottleneck",
    order=2,
    pattern="resnet{depth}b_{cardinality}x{width}",
    example="resnet56b_4x4",
    depths="9n + 2 (11, 20, 29, ...)",
    numbers="`cardinality` x `bottleneck_width` inner channels, `output_channels` for each block",
    stages=lambda depth: even_stages(depth, 3),
    block=lambda part, place, inputs: bottleneck(part, place, inputs, groups=1),
    output_channels=lambda cardinality, width: _EXPANSION * cardinality * width,
)
