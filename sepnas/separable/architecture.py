"""An architecture: the separable CIFAR ResNeXt family and its transmission policy.

Depth ``9n + 2``: a 3x3 stem, three stages of ``n`` bottleneck blocks (1x1, 3x3 group convolution, 1x1), a
classifier. Each device owns a *part*: a complete narrow ResNeXt. One part alone is the original,
non-separable network. Sources: ResNeXt (arXiv 1611.05431); separable over devices (arXiv 2111.02489).
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import MAX_CHANNELS, MAX_CLASSES, MAX_DEPTH, MAX_DEVICES, MAX_SIDE, Channels, Text

NUM_STAGES = 3


class DevicePart(Part):
    """One device's share: stage s (from 0) has ``cardinality`` groups of ``bottleneck_width * 2**s`` channels.

    Its blocks output ``output_channels * 2**s`` channels.
    """

    cardinality: Channels = 1
    bottleneck_width: Channels
    output_channels: Channels = 64

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.cardinality * self.bottleneck_width > MAX_CHANNELS:
            raise ValueError(
                f"`cardinality` x `bottleneck_width` are {self.cardinality * self.bottleneck_width} channels; at most "
                f"{MAX_CHANNELS}"
            )
        return self

    def bottleneck_channels(self, stage: int) -> int:
        return self.cardinality * self.bottleneck_width << stage

    def stage_channels(self, stage: int) -> int:
        return self.output_channels << stage


class Architecture(Document):
    """A network over devices: the parameters of its family, a part for each device, and the policy."""

    format_name: ClassVar[str] = "sepnas.architecture"

    name: Text = "custom"
    depth: Annotated[int, Field(ge=11, le=MAX_DEPTH)]
    num_classes: Annotated[int, Field(ge=2, le=MAX_CLASSES)] = 100
    in_channels: Channels = 3
    image_size: Annotated[int, Field(ge=4, le=MAX_SIDE)] = 32
    stem_channels: Channels = 16
    stem_stride: Annotated[int, Field(ge=1, le=2)] = 1
    parts: Annotated[tuple[DevicePart, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    policy: TransmissionPolicy = TransmissionPolicy()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.depth - 2) % 9:
            raise ValueError(f"`depth` must be 9n + 2 (11, 20, 29, ...), got {self.depth}")
        try:
            self.policy.check(self.num_devices, self.blocks_per_stage)
        except SpecError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def num_devices(self) -> int:
        return len(self.parts)

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        return ((self.depth - 2) // 9,) * NUM_STAGES

    @property
    def num_blocks(self) -> int:
        return sum(self.blocks_per_stage)

    def stage_of(self, block: int) -> int:
        return block // self.blocks_per_stage[0]

    def with_policy(self, policy: TransmissionPolicy) -> Architecture:
        """The same parts under another policy."""
        return Architecture.from_data(self.to_data() | {"policy": policy.to_data()}, self.name)


def named_policy(name: str, num_devices: int, depth: int) -> TransmissionPolicy:
    """``all-to-all``, ``hand-made`` or ``none`` for a network of this depth."""
    if name not in NAMED_POLICIES:
        raise SpecError(
            f"unknown policy {name!r}; allowed: {', '.join(NAMED_POLICIES)}, or a policy file (.json, .yaml, .yml)"
        )
    if depth > MAX_DEPTH or num_devices > MAX_DEVICES:  # refused later: build no large policy for it
        raise SpecError(f"at most depth {MAX_DEPTH} and {MAX_DEVICES} devices, got {depth} and {num_devices}")
    return NAMED_POLICIES[name](num_devices, ((depth - 2) // 9,) * NUM_STAGES)


_NAME = re.compile(r"resnext(?P<depth>\d{1,6})_(?P<cardinality>\d{1,6})x(?P<width>\d{1,6})d")


def named_architecture(
    name: str,
    num_devices: int = 1,
    policy: str | TransmissionPolicy = "all-to-all",
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: int = 32,
    stem_stride: int = 1,
    output_channels: int = 64,
) -> Architecture:
    """The architecture for a name such as ``resnext56_4x16d``, split over ``num_devices``.

    Raises :class:`SpecError` if the name is not of the family or ``devices`` does not divide the cardinality.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise SpecError(
            f"unknown architecture {name!r}: expected resnext<depth>_<cardinality>x<width>d, such as "
            "resnext56_4x16d, or an architecture file (.json, .yaml, .yml)"
        )
    depth, cardinality, width = (int(found[key]) for key in ("depth", "cardinality", "width"))
    if num_devices < 1:
        raise SpecError(f"`num_devices` must be at least 1, got {num_devices}")
    if cardinality % num_devices:
        raise SpecError(f"`cardinality` (={cardinality}) must be divisible by `num_devices` (={num_devices})")
    part = {"cardinality": cardinality // num_devices, "bottleneck_width": width, "output_channels": output_channels}
    if isinstance(policy, str):
        policy = named_policy(policy, num_devices, depth)
    return Architecture.from_data(
        {
            "name": name,
            "depth": depth,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
            "stem_stride": stem_stride,
            "parts": [part] * num_devices,
            "policy": policy.to_data(),
        },
        name,
    )
