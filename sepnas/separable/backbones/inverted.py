"""Pieces of networks of inverted residuals (arXiv 1801.04381): MobileNetV2 and its relatives.

A block expands its inputs, convolves each channel by itself, and projects to few channels without an activation. A
device's part has ``cardinality`` of the expansions: each is as wide as the block's input. ``bottleneck_width`` are the
output channels of the first stage, and so is ``output_channels``; all other widths follow from them. The first stage
has no expansion. The last convolution before the global mean is shared out like the expansions.

With a ``stem_stride`` of 2 the strides are the published ones, for images of about 224 pixels. With 1, the stage after
the first keeps its size as well, for images of about 32 pixels; so it does after a stem of stride 4 or more, which has
halved the image already.
"""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.separable.backbones.backbone import Backbone, BlockPlace, SmallestSize
from sepnas.separable.forms import ChannelGroups, ConvForm, HeadForm, LayerForm
from sepnas.separable.part import DevicePart
from sepnas.separable.stems.registry import DEFAULT_STEM

EXPANSION = 6
"""The published expansion."""
LAST_CHANNELS = 1280
"""The published output channels of the last convolution."""
NUMBERS = "`cardinality` expansions, each block outputs a multiple of `bottleneck_width`; leave `output_channels` out"
_FIRST = 16
_STEM_STRIDE = 2
"""The published stride of the stem."""
_STAGE_AFTER_FIRST = 1
"""The stage that keeps its size with a stem of another stride."""
_LAYERS_PER_BLOCK = 3


def head(part: DevicePart, features: ChannelGroups, num_classes: int) -> HeadForm:
    """A 1x1 convolution, global mean, classifier."""
    published = EXPANSION * _FIRST
    outputs = -(-LAST_CHANNELS * part.cardinality * part.bottleneck_width // published)
    last = ConvForm("last", features, ChannelGroups(1, outputs), activation="relu6")
    return HeadForm(features, num_classes, (last,))


@dataclass(frozen=True)
class InvertedResiduals:
    """The stages of a family: output channels (of the published width), blocks, kernels and strides of each."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def depth(self) -> int:
        """The layers of the published network: those of all blocks, the stem, and the last convolution."""
        return _depth_of(self.blocks)

    def depths(self) -> dict[int, tuple[int, ...]]:
        """The blocks of each stage by depth: the published network, and those with at most 1, 2, ... blocks a stage."""
        shorter = (tuple(min(count, most) for count in self.blocks) for most in range(1, max(self.blocks) + 1))
        return {_depth_of(blocks): blocks for blocks in shorter}

    def block(self, part: DevicePart, place: BlockPlace, inputs: ChannelGroups) -> LayerForm:
        stage, repeats = place.stage, place.number > 0
        middle = ChannelGroups(part.cardinality, inputs.size) if stage else inputs
        outputs = ChannelGroups(1, -(-self.channels[stage] * part.bottleneck_width // _FIRST))
        keeps = repeats or (stage == _STAGE_AFTER_FIRST and place.stem_stride != _STEM_STRIDE)
        stride = 1 if keeps else self.strides[stage]
        sizes = {"kernel": self.kernels[stage], "stride": stride, "groups": middle.size}
        convolutions = (
            *([ConvForm("expand", inputs, middle, activation="relu6")] if stage else []),
            ConvForm("depthwise", middle, middle, **sizes, activation="relu6"),
            ConvForm("project", middle, outputs, activation="none"),
        )
        return LayerForm(convolutions, shortcut="identity" if repeats else "none")


def _depth_of(blocks: tuple[int, ...]) -> int:
    return _LAYERS_PER_BLOCK * sum(blocks) + 2


def inverted_backbone(name: str, order: int, pattern: str, depths: str, stages: InvertedResiduals) -> Backbone:
    """A family of inverted residuals, named by ``pattern``; ``depths`` lists its depths in messages."""
    return Backbone(
        name=name,
        order=order,
        pattern=pattern,
        example=pattern.format(cardinality=EXPANSION, width=_FIRST),
        depths=depths,
        default_depth=stages.depth,
        numbers=NUMBERS,
        stages=lambda depth: stages.depths().get(depth, ()),
        block=stages.block,
        output_channels=lambda depth, cardinality, width: width,
        tied_outputs=True,
        stem_channels=lambda depth, cardinality, width: 2 * width,
        stem_activation="relu6",
        stems=(SmallestSize(0, DEFAULT_STEM, 1), SmallestSize(64, DEFAULT_STEM, _STEM_STRIDE)),
        head=head,
        signed_outputs=True,
    )
