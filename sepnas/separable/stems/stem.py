"""A stem: the first layers of a network, which bring an image to the size of the first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sepnas.errors import SpecError
from sepnas.separable.forms import Activation, ChannelGroups, ConvForm, LayerForm
from sepnas.units import format_names


@dataclass(frozen=True)
class Stem:
    """All facts of a kind of stem. Adding one takes one file in ``sepnas/separable/stems/`` and its test.

    Attributes:
        name: as in ``stem`` of an architecture and of a search space.
        order: its place in lists.
        layers: its layers in words.
        strides: the strides that it may have, the default first: pixels of the image for each of its outputs.
        form: its form from input channels, output channels, stride and the family's activation.
        whole_windows: whether the image's side must be a multiple of the stride.
    """

    name: str
    order: int
    layers: str
    strides: tuple[int, ...]
    form: Callable[[int, int, int, Activation], LayerForm]
    whole_windows: bool = False

    def check(self, image_size: int, stride: int) -> None:
        """Raise :class:`SpecError` for a stride that it does not have, or an image that it does not fit."""
        if stride not in self.strides:
            raise SpecError(
                f"`stem_stride` of the stem '{self.name}' must be {format_names(map(str, self.strides))}, got {stride}"
            )
        if self.whole_windows and image_size % stride:
            raise SpecError(f"`image_size` must be a multiple of {stride} for the stem '{self.name}', got {image_size}")


def stem_conv(name: str, inputs: int, outputs: int, kernel: int, stride: int, activation: Activation) -> ConvForm:
    """A convolution of a stem."""
    sizes = ChannelGroups(1, inputs), ChannelGroups(1, outputs)
    return ConvForm(name, *sizes, kernel=kernel, stride=stride, activation=activation)
