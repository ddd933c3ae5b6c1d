"""Three 3x3 convolutions, the first of stride 2, and a max-pool: the stem of ResNet-C (arXiv 1812.01187).

The first two have half of the channels.
"""

from __future__ import annotations

from sepnas.separable.forms import Activation, LayerForm, PoolForm
from sepnas.separable.stems.stem import Stem, stem_conv


def _form(inputs: int, outputs: int, stride: int, activation: Activation) -> LayerForm:
    half = -(-outputs // 2)
    convolutions = (
        stem_conv("first", inputs, half, 3, 2, activation),
        stem_conv("second", half, half, 3, 1, activation),
        stem_conv("third", half, outputs, 3, 1, activation),
    )
    return LayerForm(convolutions, last_pool=PoolForm(3, 2))


STEM = Stem(name="deep", order=3, layers="three 3x3, the first of stride 2, max-pool", strides=(4,), form=_form)
