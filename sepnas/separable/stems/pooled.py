"""A 3x3 convolution of stride 2 and a max-pool, as in ShuffleNet (arXiv 1707.01083): a fifth of the MACs of ``resnet``.

Every device computes the whole stem, so a cheap one pays with many devices.
"""

from __future__ import annotations

from sepnas.separable.forms import Activation, LayerForm, PoolForm
from sepnas.separable.stems.stem import Stem, stem_conv


def _form(inputs: int, outputs: int, stride: int, activation: Activation) -> LayerForm:
    return LayerForm((stem_conv("layer", inputs, outputs, 3, 2, activation),), last_pool=PoolForm(3, 2))


STEM = Stem(name="pooled", order=1, layers="3x3 of stride 2, max-pool", strides=(4,), form=_form)
