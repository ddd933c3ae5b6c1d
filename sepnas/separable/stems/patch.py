"""One convolution of patches that do not overlap, as in ConvNeXt (arXiv 2201.03545): the fewest MACs of all stems."""

from __future__ import annotations

from sepnas.separable.forms import Activation, LayerForm
from sepnas.separable.stems.stem import Stem, stem_conv


def _form(inputs: int, outputs: int, stride: int, activation: Activation) -> LayerForm:
    return LayerForm((stem_conv("layer", inputs, outputs, stride, stride, activation),))


STEM = Stem(
    name="patch",
    order=4,
    layers="patches of 4x4, or of 2x2, 8x8 or 16x16",
    strides=(4, 2, 8, 16),
    form=_form,
    whole_windows=True,
)
