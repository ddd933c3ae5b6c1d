"""An architecture: a network of a backbone's family, cut into parts for devices, and its transmission policy.

A network is a stem, blocks in stages, and a classifier (:mod:`sepnas.separable.backbones`). Each device owns a *part*:
a complete narrow network. One part alone is the original, non-separable network.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.separable.backbones.backbone import Backbone, BlockStages
from sepnas.separable.backbones.registry import BACKBONES, DEFAULT_BACKBONE, BackboneName, stages_of, without_defaults
from sepnas.separable.part import DevicePart
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.stems.registry import DEFAULT_STEM, StemName, StemStride, with_stride
from sepnas.spec.document import Document
from sepnas.spec.figures import MAX_CLASSES, MAX_DEPTH, MAX_DEVICES, MAX_SIDE, Channels, Text

__all__ = ["Architecture", "DevicePart", "name_forms", "named_architecture", "named_policy"]


class Architecture(Document):
    """A network over devices: its backbone and numbers, a part for each device, and the policy."""

    format_name: ClassVar[str] = "sepnas.architecture"

    name: Text = "custom"
    backbone: BackboneName = DEFAULT_BACKBONE
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)]
    num_classes: Annotated[int, Field(ge=2, le=MAX_CLASSES)] = 100
    in_channels: Channels = 3
    image_size: Annotated[int, Field(ge=4, le=MAX_SIDE)] = 32
    stem: StemName = DEFAULT_STEM
    stem_channels: Channels = 16
    stem_stride: StemStride = 1
    parts: Annotated[tuple[DevicePart, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    policy: TransmissionPolicy = TransmissionPolicy()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """A file may leave out the stride of its stem, and output channels that follow from other numbers of a part."""
        data = with_stride(data)
        kind = BACKBONES.get(str(data.get("backbone"))) if isinstance(data, dict) else None
        if kind is None or not kind.tied_outputs or not isinstance(data.get("parts"), list | tuple):
            return data
        return data | {"parts": [kind.with_outputs(part) for part in data["parts"]]}

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            BACKBONES[self.backbone].check(self.depth, self.image_size, self.stem, self.stem_stride)
            for part in self.parts:
                BACKBONES[self.backbone].check_part(part)
            self.policy.check(self.num_devices, self.blocks_per_stage)
        except SpecError as error:
            raise ValueError(str(error)) from None
        if BACKBONES[self.backbone].signed_outputs and self.policy.learned_scales():
            raise ValueError(
                f"blocks of a {self.backbone} may output negative values, which learned scales do not represent; "
                "set `scale` to sample"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(handler(self))

    @property
    def num_devices(self) -> int:
        return len(self.parts)

    @property
    def stages(self) -> BlockStages:
        return stages_of(self.backbone, self.depth)

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        return self.stages.blocks

    @property
    def num_blocks(self) -> int:
        return self.stages.num_blocks

    def stage_of(self, block: int) -> int:
        return self.stages.of_block[block]

    def with_policy(self, policy: TransmissionPolicy) -> Architecture:
        """The same parts under another policy."""
        return Architecture.from_data(self.to_data() | {"policy": policy.to_data()}, self.name)

    def for_side(self, side: int) -> Architecture:
        """The same network for images of another side; raises :class:`SpecError` if it cannot take them."""
        if side == self.image_size:
            return self
        return Architecture.from_data(self.to_data() | {"image_size": side}, self.name)


def named_policy(name: str, num_devices: int, depth: int, backbone: str = DEFAULT_BACKBONE) -> TransmissionPolicy:
    """``all-to-all``, ``hand-made`` or ``none`` for a network of this depth."""
    if name not in NAMED_POLICIES:
        raise SpecError(
            f"unknown policy {name!r}; allowed: {', '.join(NAMED_POLICIES)}, or a policy file (.json, .yaml, .yml)"
        )
    if depth > MAX_DEPTH or num_devices > MAX_DEVICES:  # refused later: build no large policy for it
        raise SpecError(f"at most depth {MAX_DEPTH} and {MAX_DEVICES} devices, got {depth} and {num_devices}")
    return NAMED_POLICIES[name](num_devices, stages_of(backbone, depth).blocks)


def named_architecture(
    name: str,
    num_devices: int = 1,
    policy: str | TransmissionPolicy = "all-to-all",
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: int = 32,
    stem_stride: int | None = None,
    output_channels: int | None = None,
    stem: str | None = None,
) -> Architecture:
    """The architecture for a name such as ``resnext56_4x16d``, split over ``num_devices``.

    Without ``stem`` and ``stem_stride``, the stem is the family's for images of this size.
    Raises :class:`SpecError` if the name is of no family or ``devices`` does not divide the cardinality.
    """
    backbone, (depth, cardinality, width) = _match(name)
    if num_devices < 1:
        raise SpecError(f"`num_devices` must be at least 1, got {num_devices}")
    if cardinality % num_devices:
        raise SpecError(f"`cardinality` (={cardinality}) must be divisible by `num_devices` (={num_devices})")
    share = cardinality // num_devices
    if output_channels is None:
        output_channels = backbone.output_channels(depth, share if backbone.tied_outputs else cardinality, width)
    part = {"cardinality": share, "bottleneck_width": width, "output_channels": output_channels}
    if isinstance(policy, str):
        policy = named_policy(policy, num_devices, depth, backbone.name)
    return Architecture.from_data(
        {
            "name": name,
            "backbone": backbone.name,
            "depth": depth,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
            "stem_channels": backbone.stem_channels(depth, cardinality, width),
            **stem_fields(backbone, image_size, stem, stem_stride),
            "parts": [part] * num_devices,
            "policy": policy.to_data(),
        },
        name,
    )


def stem_fields(
    backbone: Backbone, image_size: int, stem: str | None = None, stem_stride: int | None = None
) -> dict[str, Any]:
    """The fields of a stem: those that are given, or the family's for images of this size."""
    if stem is None and stem_stride is None:
        chosen = backbone.default_stem(image_size)
        return {"stem": chosen.stem, "stem_stride": chosen.stride}
    given = {"stem": stem or DEFAULT_STEM, "stem_stride": stem_stride}
    return {name: value for name, value in given.items() if value is not None}


def refit(architecture: Architecture, where: str, image_size: int, in_channels: int, num_classes: int) -> Architecture:
    """A named network for other images, with the family's stem for their size; messages begin with ``where``."""
    fits = {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}
    fits |= stem_fields(BACKBONES[architecture.backbone], image_size)
    return Architecture.from_data(architecture.to_data() | fits, where)


def _match(name: str) -> tuple[Backbone, tuple[int, int, int]]:
    """The family of a name, and its depth, cardinality and width."""
    for backbone in BACKBONES.values():
        if numbers := backbone.match(name):
            return backbone, numbers
    raise SpecError(
        f"unknown architecture {name!r}: expected {name_forms()}, or an architecture file (.json, .yaml, .yml)"
    )


def name_forms() -> str:
    """The forms of names of all families, each with an example."""
    return ", ".join(f"{each.name_form} (such as {each.example})" for each in BACKBONES.values())
