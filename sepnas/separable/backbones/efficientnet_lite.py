"""EfficientNet-Lite0 (the EfficientNet-B0 of arXiv 1905.11946 with ReLU6 and without squeeze-and-excitation).

``efficientnet-lite0_6x16`` is the published network. The two numbers are the expansion, which is shared out over the
devices, and the output channels of the first stage. Depth 50 is the published one; 23, 38 and 47 have at most 1, 2 and
3 blocks in each stage. What a device's part means: :mod:`sepnas.separable.backbones.inverted`.
"""

from __future__ import annotations

from sepnas.separable.backbones.inverted import InvertedResiduals, inverted_backbone

_STAGES = InvertedResiduals(
    channels=(16, 24, 40, 80, 112, 192, 320),
    blocks=(1, 2, 2, 3, 3, 4, 1),
    kernels=(3, 3, 5, 3, 5, 5, 3),
    strides=(1, 2, 2, 2, 1, 2, 1),
)

BACKBONE = inverted_backbone(
    "efficientnet-lite", 5, "efficientnet-lite0_{cardinality}x{width}", "23, 38, 47 or 50", _STAGES
)
