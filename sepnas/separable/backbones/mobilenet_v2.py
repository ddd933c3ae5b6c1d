"""MobileNetV2 (arXiv 1801.04381): ``mobilenetv2_6x16`` is the published network of width 1.

The two numbers are the expansion, which is shared out over the devices, and the output channels of the first stage.
Depth 53 is the published one; 23, 38 and 50 have at most 1, 2 and 3 blocks in each stage. What a device's part means:
:mod:`sepnas.separable.backbones.inverted`.
"""

from __future__ import annotations

from sepnas.separable.backbones.inverted import InvertedResiduals, inverted_backbone

_STAGES = InvertedResiduals(
    channels=(16, 24, 32, 64, 96, 160, 320),
    blocks=(1, 2, 3, 4, 3, 3, 1),
    kernels=(3, 3, 3, 3, 3, 3, 3),
    strides=(1, 2, 2, 2, 1, 2, 1),
)

BACKBONE = inverted_backbone("mobilenet-v2", 4, "mobilenetv2_{cardinality}x{width}", "23, 38, 50 or 53", _STAGES)
