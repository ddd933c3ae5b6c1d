"""The CIFAR ResNeXt family of the paper (arXiv 1611.05431; separable over devices: arXiv 2111.02489).

Depth ``9n + 2``: a 3x3 stem, three stages of ``n`` bottleneck blocks, a classifier. A device's part is a complete
narrow ResNeXt: in stage s (from 0), ``cardinality`` groups of ``bottleneck_width * 2**s`` channels, and blocks that
output ``output_channels * 2**s`` channels.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.residual import bottleneck, even_stages

BACKBONE = Backbone(
    name="resnext",
    order=0,
    pattern="resnext{depth}_{cardinality}x{width}d",
    example="resnext56_4x16d",
    depths="9n + 2 (11, 20, 29, ...)",
    numbers="`cardinality` groups of `bottleneck_width` inner channels, `output_channels` for each block",
    stages=lambda depth: even_stages(depth, 3),
    # a block as in figure 3c of arXiv 1611.05431
    block=lambda part, place, inputs: bottleneck(part, place, inputs, part.cardinality),
    output_channels=lambda cardinality, width: 64,
)
