"""Measurements of one device: the time of each operator, and the processor time of its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator
from typing_extensions import Self

from sepnas.plan.wire import CONVERTED, ENCODINGS, UNCONVERTED, WireFormat
from sepnas.spec.document import Part
from sepnas.spec.figures import NotNegative, Positive, Size, Text

OperatorKind = Literal["conv", "linear", "add", "pool", "max-pool"]
"""What an engine computes in one call; :class:`sepnas.plan.operators.Operator` says what each kind includes."""


class MeasuredMachine(Part):
    """Where and how a profile was measured.

    ``noise`` is the relative spread of repeated medians: smaller differences are not significant.
    """

    cpu: Text
    cores: Size
    architecture: Text
    os: Text
    python: Text
    engine: Text
    engine_version: Text
    threads: Size
    date: Text
    noise: NotNegative = 0.0


class OperatorSizes(Part):
    """One operator in a file; ``height`` and ``width`` are those of its output."""

    kind: OperatorKind
    in_channels: Size
    out_channels: Size
    kernel: Size = 1
    stride: Size = 1
    groups: Size = 1
    height: Size = 1
    width: Size = 1

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be a multiple of `groups` ({self.groups})")
        return self


class OperatorTime(OperatorSizes):
    """Median time of one operator on one sample."""

    seconds: Positive

    @property
    def key(self) -> tuple[OperatorKind, int, int, int, int, int, int, int]:
        """Every field except the time."""
        return (
            self.kind, self.in_channels, self.out_channels, self.kernel, self.stride, self.groups,
            self.height, self.width,
        )  # fmt: skip


class DeviceProfile(Part):
    """The measured times of a device's operators.

    Measured operators take the times of their rows; the times of others are interpolated. ``segment_overhead_s`` is
    the fixed cost of calling the engine, ``segment_s_per_value`` the cost of each value that enters or leaves a
    segment: an engine may convert tensors to a layout of its own, and back.
    """

    machine: MeasuredMachine
    operators: Annotated[tuple[OperatorTime, ...], Field(min_length=1, max_length=20_000)]
    segment_overhead_s: NotNegative = 0.0
    segment_s_per_value: NotNegative = 0.0

    def scaled(self, ratio: float) -> DeviceProfile:
        """The same profile with every time multiplied by ``ratio``."""
        rows = (row.model_copy(update={"seconds": row.seconds * ratio}) for row in self.operators)
        return self.model_copy(
            update={
                "operators": tuple(rows),
                "segment_overhead_s": self.segment_overhead_s * ratio,
                "segment_s_per_value": self.segment_s_per_value * ratio,
            }
        )

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        seen: dict[object, int] = {}
        for index, row in enumerate(self.operators):
            first = seen.setdefault(row.key, index)
            if first != index:
                raise ValueError(f"`operators.{index}` measures the same operator as `operators.{first}`")
        return self


class _ConversionCosts(Part):
    """Seconds per value converted to a wire format or back; fp32 is sent as it lies in memory.

    A format that a profile does not name costs nothing, except one that is newer than the first profiles: it costs
    the same as the format it is ``priced_as`` (:class:`sepnas.plan.wire.WireEncoding`).
    """

    def of(self, wire: WireFormat) -> float:
        """Seconds per value of this format."""
        if wire == UNCONVERTED:
            return 0.0
        found: float | None = getattr(self, wire)
        return self.of(ENCODINGS[wire].priced_as or UNCONVERTED) if found is None else found

    @model_serializer(mode="wrap")
    def _leave_out_unmeasured(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave formats without a measurement out, so that older profiles are written back unchanged."""
        return {name: seconds for name, seconds in handler(self).items() if seconds is not None}


def _conversion_field(wire: WireFormat) -> tuple[Any, float | None]:
    return (NotNegative, 0.0) if ENCODINGS[wire].priced_as is None else (NotNegative | None, None)


if TYPE_CHECKING:
    ConversionCosts = _ConversionCosts
else:  # one field for each converted wire format
    ConversionCosts = create_model(
        "ConversionCosts",
        __base__=_ConversionCosts,
        __module__=__name__,
        __doc__=_ConversionCosts.__doc__,
        **{wire: _conversion_field(wire) for wire in CONVERTED},
    )


class ExchangeCosts(Part):
    """What exchanging costs a device's processor.

    - ``message_s``, ``byte_s``: cost of a send or a receive, per message and per byte (copies, TLS);
    - ``convert_s``, ``convert_s_per_value``: cost of converting to a wire format or back, per call and per value;
    - ``merge_s``, ``merge_s_per_value``: cost of a merge, and of each of its input values;
    - ``resume_s``: extra computing time after a wait for messages, because caches went cold;
    - ``own_core``: whether the threads that send and receive have a core beside the computing thread's.
    """

    message_s: NotNegative = 0.0
    byte_s: NotNegative = 0.0
    convert_s: NotNegative = 0.0
    convert_s_per_value: ConversionCosts = ConversionCosts()
    merge_s: NotNegative = 0.0
    merge_s_per_value: NotNegative = 0.0
    resume_s: NotNegative = 0.0
    own_core: bool = True
