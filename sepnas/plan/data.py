"""Parts of plan files: steps, shapes, regions, ports and segments, with every field bounded."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from sepnas.plan.merges import MERGE_KINDS
from sepnas.plan.wire import IMAGE_FORMATS, LEVELS, UNCONVERTED, AnyFormat, WireFormat
from sepnas.spec.device_profile import OperatorSizes
from sepnas.spec.document import Part
from sepnas.spec.figures import ONE_LINE, Index, Rank, RankOrClient

MAX_TENSOR_VALUES = 1 << 30
"""Maximum number of values in one sample of a tensor."""
MAX_AXES = 8
MAX_JOINED = 256
"""Maximum number of tensors that one step reads or writes."""
MAX_LIST = 4096
"""Maximum number of values of one attribute."""
MAX_SEGMENT_NODES = 20_000

Dim = Annotated[int, Field(gt=0, le=1 << 20, strict=True)]
Axis = Annotated[str, Field(pattern=r"^[A-Z]$")]
RangeData = tuple[Index, Index]
RegionData = Annotated[tuple[RangeData, ...], Field(max_length=MAX_AXES)]
OffsetData = Annotated[tuple[Index, ...], Field(max_length=MAX_AXES)]
Tag = Annotated[int, Field(ge=0, lt=1 << 32, strict=True)]
TensorName = Annotated[str, Field(min_length=1, max_length=500, pattern=ONE_LINE)]
PortName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_]\w*$")]
"""The name of an input or output in a segment's graph."""
PortNames = Annotated[tuple[PortName, ...], Field(min_length=1, max_length=MAX_JOINED)]
SegmentName = Annotated[str, Field(max_length=200, pattern=r"^\w[\w.-]*$")]
"""Also used as a file name."""
TensorNames = Annotated[tuple[TensorName, ...], Field(min_length=1, max_length=MAX_JOINED)]


_Value = bool | int | float | str
Attribute = (
    _Value
    | Annotated[tuple[_Value, ...], Field(max_length=MAX_LIST)]
    | Annotated[tuple[Annotated[tuple[_Value, ...], Field(max_length=MAX_LIST)], ...], Field(max_length=MAX_LIST)]
)
"""A number, a word, a list of them, or a list of lists. Data types and numbers that are not finite are words."""
Role = Annotated[str, Field(max_length=200, pattern=r"^[a-z_]\w*(\.\d{1,4})?$")]
"""The name of an operand: an argument of ATen, with a number if it is one of a list."""
OperatorName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_]\w*(\.\w+){0,2}$")]


def _known_kind(kind: str) -> str:
    if kind not in MERGE_KINDS:
        raise ValueError(f"must be one of {', '.join(MERGE_KINDS)}")
    return kind


class ShapeData(Part):
    """The shape of one sample of a tensor: the size along each named axis."""

    axes: Annotated[str, Field(max_length=MAX_AXES, pattern=r"^[A-Z]*$")]
    dims: Annotated[tuple[Dim, ...], Field(max_length=MAX_AXES)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.axes)) != len(self.dims) or len(self.axes) != len(self.dims):
            raise ValueError(f"`axes` must name each of {len(self.dims)} dims with a letter of its own")
        if math.prod(self.dims) > MAX_TENSOR_VALUES:
            raise ValueError(f"has {math.prod(self.dims):,} values; a tensor has at most {MAX_TENSOR_VALUES:,}")
        return self


class WithoutDefaults(Part):
    """Omits fields that hold their default, so that rare fields do not lengthen every file."""

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in data.items()
            if name == "step" or fields[name].is_required() or getattr(self, name) != fields[name].default
        }


class ComputeData(Part):
    step: Literal["compute"] = "compute"
    segment: SegmentName
    inputs: TensorNames
    outputs: TensorNames


class SliceData(Part):
    step: Literal["slice"] = "slice"
    tensor: TensorName
    region: RegionData
    output: TensorName


class Scaled(WithoutDefaults):
    """A message with an optional learned scale, given by name."""

    scale: TensorName | None = None

    @model_validator(mode="after")
    def _levels_to_scale(self) -> Self:
        wire = getattr(self, "wire", None)  # declared by subclasses, to keep the order of fields in the file
        if self.scale is not None and wire not in LEVELS:
            raise ValueError(f"`scale` is {self.scale!r}, but {wire} has no levels")
        return self


class SendData(Scaled):
    step: Literal["send"] = "send"
    tensor: TensorName
    region: RegionData
    wire: WireFormat
    to: RankOrClient
    tag: Tag


class RecvData(Part):
    step: Literal["recv"] = "recv"
    tag: Tag
    source: RankOrClient
    tensor: TensorName


class MergeData(WithoutDefaults):
    step: Literal["merge"] = "merge"
    kind: Annotated[str, AfterValidator(_known_kind)]
    inputs: TensorNames
    output: TensorName
    parameter: TensorName | None = None
    axis: Axis = "C"
    offsets: Annotated[tuple[OffsetData, ...], Field(max_length=MAX_JOINED)] = ()


StepData = Annotated[ComputeData | SliceData | SendData | RecvData | MergeData, Field(discriminator="step")]


class MessageData(Scaled):
    """One message of the plan; ``shape`` is that of one sample of its content; rank -1 is the client.

    ``normalisation`` names the numbers that normalise an image (:class:`sepnas.plan.plan.Message`).
    """

    tag: Tag
    source: RankOrClient
    destination: RankOrClient
    tensor: TensorName
    shape: ShapeData
    wire: AnyFormat
    normalisation: TensorName | None = None

    @model_validator(mode="after")
    def _images_come_from_the_client(self) -> Self:
        if self.wire in IMAGE_FORMATS and (self.source != -1 or "C" not in self.shape.axes):
            raise ValueError(f"`wire` is {self.wire}, in which only the client sends, and only images with channels")
        if (self.wire in IMAGE_FORMATS) != (self.normalisation is not None):
            raise ValueError(f"`normalisation` must be given for {' and '.join(IMAGE_FORMATS)}, and for nothing else")
        return self


class PieceData(Part):
    """A region of an input or output, and the message that carries it."""

    region: RegionData
    device: Rank
    tag: Tag
    wire: AnyFormat = UNCONVERTED


class PortData(WithoutDefaults):
    """A tensor that the client sends or receives; for ``fallbacks`` see :class:`sepnas.plan.plan.Port`."""

    name: TensorName
    shape: ShapeData
    pieces: Annotated[tuple[PieceData, ...], Field(min_length=1, max_length=MAX_JOINED)]
    fallbacks: Annotated[tuple[PieceData, ...], Field(max_length=MAX_JOINED)] = ()


class OperatorData(WithoutDefaults, OperatorSizes):
    """See :class:`sepnas.plan.operators.Operator`."""


class WeightData(Part):
    """A region of one of the network's tensors."""

    name: TensorName
    region: RegionData


def _of_one_axis(terms: Any) -> Any:
    """A plain range, as in earlier files, is that of the only axis."""
    return [terms] if isinstance(terms, list | tuple) and terms and isinstance(terms[0], int) else terms


class SegmentNodeData(WithoutDefaults):
    """See :class:`sepnas.plan.segment_node.SegmentNode`."""

    layer: TensorName
    operator: OperatorName
    inputs: Annotated[dict[Role, TensorName | Index], Field(max_length=MAX_JOINED)]
    outputs: TensorNames
    shapes: Annotated[tuple[Annotated[tuple[Dim, ...], Field(max_length=MAX_AXES)], ...], Field(max_length=MAX_JOINED)]
    attributes: Annotated[dict[Role, Attribute], Field(max_length=64, default_factory=dict)]
    region: RegionData | None = None
    terms: Annotated[RegionData | None, BeforeValidator(_of_one_axis)] = None


class SegmentData(WithoutDefaults):
    """See :class:`sepnas.plan.plan.Segment`; its name and device are given by its place in the file."""

    layers: Annotated[tuple[TensorName, ...], Field(min_length=1)]
    inputs: PortNames
    outputs: PortNames
    flops: Index
    num_kernels: Index
    weight_bytes: Index
    activation_bytes: Index
    operators: tuple[OperatorData, ...]
    weights: tuple[WeightData, ...]
    nodes: Annotated[tuple[SegmentNodeData, ...], Field(max_length=MAX_SEGMENT_NODES)] = ()
