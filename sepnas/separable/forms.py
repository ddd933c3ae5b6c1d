"""Descriptions of layers without torch: a backbone describes its stem, its blocks and its head in these terms.

:mod:`sepnas.separable.layers` derives the costs of a layer from its description, :mod:`sepnas.nets.blocks` its module,
and :mod:`sepnas.nets.supernet` the slices that a narrower network takes of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Activation = Literal["relu", "relu6", "none"]
_NORM = ("weight", "bias", "running_mean", "running_var")


class ChannelGroups(NamedTuple):
    """An axis of channels in equal groups; a narrower network has the first groups and the first channels of each."""

    groups: int
    width: int

    @property
    def size(self) -> int:
        return self.groups * self.width


Axes: TypeAlias = tuple[ChannelGroups, ...]
"""The axes of a weight."""


def padding_of(kernel: int) -> int:
    """The padding of a window: an odd one preserves the sides at stride 1; an even one has none."""
    return kernel // 2 if kernel % 2 else 0


def side_after(side: int, kernel: int, stride: int) -> int:
    """The pixels a side after windows of ``kernel`` pixels with this stride."""
    return (side + 2 * padding_of(kernel) - kernel) // stride + 1


class PoolForm(NamedTuple):
    """A max-pool of windows of ``kernel`` pixels a side; its padding is that of a convolution."""

    kernel: int
    stride: int


class ConvForm(NamedTuple):
    """A convolution without bias, batch norm and an activation; its padding is :func:`padding_of` its kernel.

    With ``groups`` above 1, these are the groups of ``inputs``, or each input channel is one (depthwise).
    """

    name: str
    inputs: ChannelGroups
    outputs: ChannelGroups
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation = "relu"

    @property
    def taken(self) -> ChannelGroups:
        """The inputs of each output."""
        return self.inputs if self.groups == 1 else ChannelGroups(1, self.inputs.size // self.groups)

    def weights(self) -> Iterator[tuple[str, Axes]]:
        """The names and axes of its tensors, with those of the batch norm."""
        side = ChannelGroups(1, self.kernel)
        yield f"{self.name}.conv.weight", (self.outputs, self.taken, side, side)
        for name in _NORM:
            yield f"{self.name}.bn.{name}", (self.outputs,)


@dataclass(frozen=True, slots=True)
class LayerForm:
    """A stem or a block: a max-pool, convolutions in a row with a shortcut, another max-pool.

    ``activation`` follows the addition of the shortcut.
    """

    convolutions: tuple[ConvForm, ...]
    pool: PoolForm | None = None
    shortcut: ConvForm | Literal["identity", "none"] = "none"
    activation: Activation = "none"
    last_pool: PoolForm | None = None

    @property
    def outputs(self) -> ChannelGroups:
        return self.convolutions[-1].outputs

    @property
    def every_convolution(self) -> tuple[ConvForm, ...]:
        """All convolutions in execution order, with that of the shortcut."""
        return (*self.convolutions, self.shortcut) if isinstance(self.shortcut, ConvForm) else self.convolutions

    def weights(self) -> Iterator[tuple[str, Axes]]:
        """The names and axes of its tensors, in order."""
        for each in self.every_convolution:
            yield from each.weights()


@dataclass(frozen=True, slots=True)
class HeadForm:
    """A head: ``convolutions`` (often none), the mean over all pixels, and a classifier with bias."""

    features: ChannelGroups
    num_classes: int
    convolutions: tuple[ConvForm, ...] = ()

    @property
    def every_convolution(self) -> tuple[ConvForm, ...]:
        return self.convolutions

    @property
    def classified(self) -> ChannelGroups:
        """The channels that the classifier reads."""
        return self.convolutions[-1].outputs if self.convolutions else self.features

    def weights(self) -> Iterator[tuple[str, Axes]]:
        """The names and axes of its tensors, in order."""
        for each in self.convolutions:
            yield from each.weights()
        classes = ChannelGroups(1, self.num_classes)
        yield "classifier.weight", (classes, self.classified)
        yield "classifier.bias", (classes,)


Form: TypeAlias = LayerForm | HeadForm
