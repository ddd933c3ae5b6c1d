"""A 7x7 convolution and a 3x3 max-pool, each of stride 2: the stem of ResNets at 224 pixels (arXiv 1512.03385)."""

from __future__ import annotations

from sepnas.separable.forms import Activation, LayerForm, PoolForm
from sepnas.separable.stems.stem import Stem, stem_conv


def _form(inputs: int, outputs: int, stride: int, activation: Activation) -> LayerForm:
    return LayerForm((stem_conv("layer", inputs, outputs, 7, 2, activation),), last_pool=PoolForm(3, 2))


STEM = Stem(name="resnet", order=2, layers="7x7 of stride 2, max-pool", strides=(4,), form=_form)
