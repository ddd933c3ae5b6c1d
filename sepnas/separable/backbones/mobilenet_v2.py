"""MobileNetV2 (arXiv 1801.04381): ``mobilenetv2_6x16`` is the published network of width 1.

The two numbers are the expansion, which is shared out over the devices, and the output channels of the first stage.
Depth 53 is the published one; 23, 38 and 50 have at most 1, 2 and 3 blocks in each stage. What a device's part means:
:mod:`sepnas.separable.backbones.inverted`.
"""

from __future__ import annotations

from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.inverted import NUMBERS, InvertedResiduals, head, stem

_STAGES = InvertedResiduals(
    channels=(16, 24, 32, 64, 96, 160, 320),
    blocks=(1, 2, 3, 4, 3, 3, 1),
    kernels=(3, 3, 3, 3, 3, 3, 3),
    strides=(1, 2, 2, 2, 1, 2, 1),
)

BACKBONE = Backbone(
    name="mobilenet-v2",
    order=4,
    pattern="mobilenetv2_{cardinality}x{width}",
    example="mobilenetv2_6x16",
    depths="23, 38, 50 or 53",
    default_depth=_STAGES.depth,
    numbers=NUMBERS,
    stages=lambda depth: _STAGES.depths().get(depth, ()),
    block=_STAGES.block,
    output_channels=lambda cardinality, width: width,
    tied_outputs=True,
    stem_channels=lambda cardinality, width: 2 * width,
    stem=stem,
    head=head,
    signed_outputs=True,
)
