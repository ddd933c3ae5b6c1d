"""A backbone: a family of networks that are chains of a stem, blocks in stages, and a head."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from sepnas.errors import SpecError
from sepnas.separable.forms import Activation, ChannelGroups, HeadForm, LayerForm
from sepnas.separable.part import DevicePart
from sepnas.separable.stems.registry import DEFAULT_STEM, STEMS
from sepnas.spec.figures import MAX_BLOCKS, MAX_DEPTH

_ANY_DEPTH = 0
"""Tied output channels do not depend on the depth."""


class BlockPlace(NamedTuple):
    """A block's stage and its number within the stage, both from 0; ``stem_stride`` is that of the network."""

    stage: int
    number: int
    stem_stride: int = 1

    @property
    def opens_stage(self) -> bool:
        """Whether it is the first block of a stage after the first stage."""
        return self.stage > 0 and self.number == 0


class SmallestSize(NamedTuple):
    """The stem of images from ``image_size`` pixels a side, where none is chosen."""

    image_size: int
    stem: str
    stride: int


STEMS_OF_RESNETS = SmallestSize(0, DEFAULT_STEM, 1), SmallestSize(64, DEFAULT_STEM, 2), SmallestSize(128, "resnet", 4)
"""The first stage sees 32 pixels a side at least, as on CIFAR, and 56 of 224, as published."""


def plain_head(part: DevicePart, features: ChannelGroups, num_classes: int) -> HeadForm:
    """Global mean and classifier."""
    return HeadForm(features, num_classes)


@dataclass(frozen=True)
class Backbone:
    """All facts of a family. Adding one takes one file in ``sepnas/separable/backbones/`` and its test.

    Attributes:
        name: as in ``backbone`` of an architecture and of a search space.
        order: its place in lists.
        pattern: its names, with ``{depth}``, ``{cardinality}`` and ``{width}``; without ``{depth}`` names mean
            ``default_depth``.
        example: one of its names.
        depths: the allowed depths in words.
        numbers: what ``cardinality``, ``bottleneck_width`` and ``output_channels`` of a part are, in words.
        stages: maps a depth to the number of blocks of each stage; empty for a depth that the family does not have. Of
            two networks with equally many stages, the deeper one has no fewer blocks in any.
        block: the form of a block from a device's part, the block's place and its inputs.
        output_channels: a part's ``output_channels`` for a depth, a cardinality and a bottleneck width, unless they are
            given; with ``tied_outputs`` they cannot be given: each part's own numbers define them, at any depth.
        stem_channels: the channels of the stem for a name's depth, cardinality and width.
        stem_activation: the activation of its convolutions.
        stems: the stems of images that choose none, by rising size.
        head: the form of the head from a part, its features and the number of classes.
        min_side: the fewest pixels a side after the stem.
        signed_outputs: whether outputs of blocks may be negative; then messages cannot have learned scales.
    """

    name: str
    order: int
    pattern: str
    example: str
    depths: str
    numbers: str
    stages: Callable[[int], tuple[int, ...]]
    block: Callable[[DevicePart, BlockPlace, ChannelGroups], LayerForm]
    output_channels: Callable[[int, int, int], int]
    tied_outputs: bool = False
    default_depth: int = 0
    stem_channels: Callable[[int, int, int], int] = lambda depth, cardinality, width: 16
    stem_activation: Activation = "relu"
    stems: tuple[SmallestSize, ...] = STEMS_OF_RESNETS
    head: Callable[[DevicePart, ChannelGroups, int], HeadForm] = plain_head
    min_side: int = 1
    signed_outputs: bool = False

    @property
    def name_form(self) -> str:
        """Its names as shown to people: ``resnext<depth>_<cardinality>x<width>d``."""
        return self.pattern.replace("{", "<").replace("}", ">")

    def match(self, name: str) -> tuple[int, int, int] | None:
        """Depth, cardinality and width of a network's name; None for a name of another family."""
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d{1,6})", re.escape(self.pattern))
        found = re.fullmatch(pattern, name, re.ASCII)
        if found is None:
            return None
        return int(found.groupdict().get("depth", self.default_depth)), int(found["cardinality"]), int(found["width"])

    def default_stem(self, image_size: int) -> SmallestSize:
        """The stem of images of this size that choose none."""
        return ([each for each in self.stems if each.image_size <= image_size] or self.stems[:1])[-1]

    def stem(self, kind: str, inputs: int, outputs: int, stride: int) -> LayerForm:
        """The form of a stem of this kind."""
        return STEMS[kind].form(inputs, outputs, stride, self.stem_activation)

    def check(self, depth: int, image_size: int, stem: str, stem_stride: int) -> None:
        """Raise :class:`SpecError` for a depth, a stem or an image size that the family does not have."""
        stages = self.stages(depth)
        if not stages:
            raise SpecError(f"`depth` must be {self.depths}, got {depth}")
        if depth > MAX_DEPTH:
            raise SpecError(f"`depth` must be at most {MAX_DEPTH}, got {depth}")
        if sum(stages) > MAX_BLOCKS:
            raise SpecError(f"`depth` {depth} means {sum(stages)} blocks; a network has at most {MAX_BLOCKS}")
        STEMS[stem].check(image_size, stem_stride)
        if -(-image_size // stem_stride) < self.min_side:
            raise SpecError(
                f"`image_size` must be at least {(self.min_side - 1) * stem_stride + 1} for a {self.name} with "
                f"`stem_stride` {stem_stride}, got {image_size}"
            )

    def with_outputs(self, part: Any) -> Any:
        """The data of a part, with its output channels if they are missing and its other numbers are numbers."""
        if not isinstance(part, dict) or "output_channels" in part:
            return part
        cardinality, width = part.get("cardinality", 1), part.get("bottleneck_width")
        if type(cardinality) is not int or type(width) is not int:
            return part
        return part | {"output_channels": self.output_channels(_ANY_DEPTH, cardinality, width)}

    def check_part(self, part: DevicePart) -> None:
        """Raise :class:`SpecError` for output channels that the other numbers of the part contradict."""
        wanted = self.output_channels(_ANY_DEPTH, part.cardinality, part.bottleneck_width)
        if self.tied_outputs and part.output_channels != wanted:
            raise SpecError(
                f"`output_channels` of a {self.name} part with `cardinality` {part.cardinality} and `bottleneck_width` "
                f"{part.bottleneck_width} are {wanted}, got {part.output_channels}; leave `output_channels` out"
            )


@dataclass(frozen=True)
class BlockStages:
    """The blocks of a network by stage: their number in each, the stage of each, and the last block of each stage.

    A stage may have no block.
    """

    blocks: tuple[int, ...]
    of_block: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, blocks: tuple[int, ...]) -> BlockStages:
        numbers = tuple(stage for stage, count in enumerate(blocks) for _ in range(count))
        ends = [end - 1 for end, count in zip(accumulate(blocks), blocks, strict=True) if count]
        return cls(blocks, numbers, tuple(ends))

    @property
    def num_blocks(self) -> int:
        return len(self.of_block)

    def place(self, block: int) -> tuple[int, int]:
        """The stage of a block, and its number within the stage."""
        stage = self.of_block[block]
        return stage, block - sum(self.blocks[:stage])

    def even_blocks(self) -> tuple[int, ...]:
        """The even blocks of each stage, without the block that ends it."""
        return tuple(
            block for block in range(self.num_blocks) if self.place(block)[1] % 2 == 0 and block not in self.ends
        )

    def block(self, stage: int, number: int) -> int:
        """The block at a place."""
        return sum(self.blocks[:stage]) + number
