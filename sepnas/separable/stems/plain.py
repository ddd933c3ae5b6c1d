"""One 3x3 convolution: the stem of networks for images of about 32 pixels, and with stride 2 of MobileNets."""

from __future__ import annotations

from sepnas.separable.forms import Activation, LayerForm
from sepnas.separable.stems.stem import Stem, stem_conv


def _form(inputs: int, outputs: int, stride: int, activation: Activation) -> LayerForm:
    return LayerForm((stem_conv("layer", inputs, outputs, 3, stride, activation),))


STEM = Stem(name="plain", order=0, layers="3x3 of stride 1 or 2", strides=(1, 2), form=_form)
