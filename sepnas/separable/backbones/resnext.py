"""The ResNeXt family (arXiv 1611.05431); that of CIFAR is the paper's (separable over devices: arXiv 2111.02489).

Depth ``9n + 2``, for images of about 32 pixels: three stages of ``n`` bottleneck blocks, a classifier. Depth 14, 26, 50
or 152, for large images: four stages; ``resnext50_32x4d`` is the published ResNeXt-50. A device's part is a complete
narrow ResNeXt: in stage s (from 0), ``cardinality`` groups of ``bottleneck_width * 2**s`` channels, and blocks that
output ``output_channels * 2**s`` channels, by default 64, or 256 with four stages.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.residual import LARGE_BOTTLENECK, bottleneck, stages_of_depth, stem_channels

BACKBONE = Backbone(
    name="resnext",
    order=0,
    pattern="resnext{depth}_{cardinality}x{width}d",
    example="resnext56_4x16d",
    depths="9n + 2 (11, 20, 29, ...), or for large images 14, 26, 50 or 152",
    numbers="`cardinality` groups of `bottleneck_width` inner channels, `output_channels` for each block",
    stages=lambda depth: stages_of_depth(depth, 3, LARGE_BOTTLENECK),
    # a block as in figure 3c of arXiv 1611.05431
    block=lambda part, place, inputs: bottleneck(part, place, inputs, part.cardinality),
    output_channels=lambda depth, cardinality, width: 256 if depth in LARGE_BOTTLENECK else 64,
    stem_channels=lambda depth, cardinality, width: stem_channels(cardinality, width, depth in LARGE_BOTTLENECK),
)
