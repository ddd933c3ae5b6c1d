"""The networks of a search space: a backbone and its numbers, some of them choices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.separable.architecture import Architecture, stem_fields
from sepnas.separable.backbones.backbone import BlockStages
from sepnas.separable.backbones.registry import BACKBONES, DEFAULT_BACKBONE, BackboneName, stages_of, without_defaults
from sepnas.separable.part import DevicePart
from sepnas.separable.stems.registry import DEFAULT_STEM, StemName, StemStride, with_stride
from sepnas.spec.document import Part, repeated, short
from sepnas.spec.figures import MAX_CHANNELS, MAX_CLASSES, MAX_DEVICES, MAX_SIDE, Channels


def _one_or_several(value: Any) -> Any:
    given = list(value) if isinstance(value, list | tuple) else [value]
    if not given:
        raise ValueError("an empty list leaves no choice; give a number, or a list of numbers")
    if any(type(number) is not int or number < 1 for number in given):
        raise ValueError(f"expected a whole number from 1, or a list of such numbers, got {short(value)}")
    if max(given) > MAX_CHANNELS or len(given) > MAX_CHOICES:
        raise ValueError(f"expected at most {MAX_CHOICES} numbers of at most {MAX_CHANNELS}, got {short(value)}")
    if twice := repeated(given):
        raise ValueError(f"each choice may stand once, {twice[0]} stands {given.count(twice[0])} times")
    return tuple(given) if isinstance(value, list | tuple) else value


Numbers = Annotated[int | tuple[int, ...], BeforeValidator(_one_or_several)]
"""A number for all networks, or a list from which each network chooses one."""

MAX_CHOICES = 256
_IMAGE_SIZE = 32
CHOOSABLE = ("depth", "cardinality", "bottleneck_width")
_SHARED = ("backbone", "image_size", "in_channels", "num_classes", "stem", "stem_channels", "stem_stride")


class NetworkSpace(Part):
    """The networks: a backbone and its numbers, and either ``parts`` or the numbers that parts are built from.

    ``cardinality`` is that of the whole network: each of ``num_devices`` devices gets an equal share of the groups.
    With ``uneven`` each device chooses its own ``bottleneck_width`` from the list. ``output_channels`` are by default
    those of the widest network (64 for the paper's family); some families derive them from the other numbers. Without
    ``stem`` and ``stem_stride``, the stem is the family's for images of ``image_size``.
    """

    # the paper's family is omitted from files, so that those from before there were others are written unchanged

    backbone: BackboneName = DEFAULT_BACKBONE
    depth: Numbers
    image_size: Annotated[int, Field(ge=4, le=MAX_SIDE)] = _IMAGE_SIZE
    in_channels: Channels = 3
    num_classes: Annotated[int, Field(ge=2, le=MAX_CLASSES)] = 100
    stem: StemName = DEFAULT_STEM
    stem_channels: Channels = 16
    stem_stride: StemStride = 1
    parts: Annotated[tuple[DevicePart, ...], Field(min_length=1, max_length=MAX_DEVICES)] | None = None
    num_devices: Annotated[int, Field(gt=0, le=MAX_DEVICES)] | None = None
    cardinality: Numbers | None = None
    bottleneck_width: Numbers | None = None
    uneven: bool = False
    output_channels: Channels | None = None

    @model_validator(mode="before")
    @classmethod
    def _choose_stem(cls, data: Any) -> Any:
        kind = BACKBONES.get(str(data.get("backbone", DEFAULT_BACKBONE))) if isinstance(data, dict) else None
        size = data.get("image_size", _IMAGE_SIZE) if kind else None
        if kind is None or type(size) is not int or {"stem", "stem_stride"} & data.keys():
            return with_stride(data)
        return data | stem_fields(kind, size)

    @model_validator(mode="after")
    def _parts_or_numbers(self) -> Self:
        numbers = {name: getattr(self, name) for name in ("num_devices", "cardinality", "bottleneck_width")}
        given = [name for name, value in numbers.items() if value is not None]
        if self.parts is not None and given:
            raise ValueError(f"give either `parts` or numbers for equal parts, got `parts` and `{given[0]}`")
        if self.parts is None and len(given) < len(numbers):
            missing = next(name for name in numbers if name not in given)
            raise ValueError(f"`{missing}` is missing; or give `parts`, one entry for each device")
        for cardinality in _listed(self.cardinality or 0):
            if cardinality % self.count_devices():
                raise ValueError(
                    f"`cardinality` (={cardinality}) must be divisible by `num_devices` (={self.num_devices})"
                )
        self._check_backbone()
        if self.uneven and not isinstance(self.bottleneck_width, tuple):
            raise ValueError("`uneven` needs a list of `bottleneck_width` that each device may choose from")
        return self

    def _check_backbone(self) -> None:
        """Raise :class:`ValueError` for numbers that the family does not have, or that cannot share weights."""
        kind = BACKBONES[self.backbone]
        try:
            for depth in self.depths:
                kind.check(depth, self.image_size, self.stem, self.stem_stride)
            for part in self.parts or ():
                kind.check_part(part)
        except SpecError as error:
            raise ValueError(str(error)) from None
        if len({tuple(map(bool, self.stages(depth).blocks)) for depth in self.depths}) > 1:
            stages = {depth: self.stages(depth).blocks for depth in self.depths}
            lacking = min(stages, key=lambda depth: sum(map(bool, stages[depth])))
            having = max(stages, key=lambda depth: sum(map(bool, stages[depth])))
            raise ValueError(
                f"`depth` {lacking} has no block in a stage where {having} has some, so the two cannot share weights; "
                "give them spaces of their own"
            )
        if kind.tied_outputs and self.output_channels is not None:
            raise ValueError(
                f"`output_channels` of a {self.backbone} follow from its other numbers, got {self.output_channels}; "
                "leave it out"
            )
        if not kind.tied_outputs and self.output_channels is None:
            numbers = (max(_listed(number or 1)) for number in (self.cardinality, self.bottleneck_width))
            object.__setattr__(self, "output_channels", kind.output_channels(max(self.depths), *numbers))

    @model_serializer(mode="wrap")
    def _leave_out_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(handler(self))

    @property
    def depths(self) -> tuple[int, ...]:
        return _listed(self.depth)

    def stages(self, depth: int) -> BlockStages:
        return stages_of(self.backbone, depth)

    def count_devices(self) -> int:
        return len(self.parts) if self.parts is not None else self.num_devices or 1

    def choices(self) -> dict[str, tuple[int, ...]]:
        """The values of each network label; a fixed number has no label."""
        listed = {name: value for name in CHOOSABLE if isinstance(value := getattr(self, name), tuple)}
        if self.uneven:
            widths = listed.pop("bottleneck_width")
            listed |= {f"device{rank}.bottleneck_width": widths for rank in range(self.count_devices())}
        return listed

    def architecture(self, name: str, chosen: Mapping[str, Any]) -> Architecture:
        """The network of a genotype, without a policy; equal networks are one object."""
        return _architecture(self, name, tuple(chosen[label] for label in self.choices()))

    def _parts(self, chosen: Mapping[str, int]) -> tuple[DevicePart, ...]:
        if self.parts is not None:
            return self.parts
        num_devices = self.count_devices()
        shared = {name: chosen.get(name, getattr(self, name)) for name in ("cardinality", "bottleneck_width")}
        widths = [
            chosen.get(f"device{rank}.bottleneck_width", shared["bottleneck_width"]) for rank in range(num_devices)
        ]
        return tuple(self._part(shared["cardinality"] // num_devices, width) for width in widths)

    def _part(self, cardinality: int, width: int) -> DevicePart:
        outputs = self.output_channels or BACKBONES[self.backbone].output_channels(self.depths[0], cardinality, width)
        return DevicePart(cardinality=cardinality, bottleneck_width=width, output_channels=outputs)


@lru_cache(maxsize=4096)
def _architecture(space: NetworkSpace, name: str, values: tuple[int, ...]) -> Architecture:
    chosen = dict(zip(space.choices(), values, strict=True))
    shared = {field: getattr(space, field) for field in _SHARED}
    return Architecture(name=name, depth=chosen.get("depth", space.depths[0]), parts=space._parts(chosen), **shared)


def _listed(numbers: int | tuple[int, ...]) -> tuple[int, ...]:
    return numbers if isinstance(numbers, tuple) else (numbers,)
