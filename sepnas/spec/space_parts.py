"""What a search space is made of: the networks, the policies' choices, the bounds and the objectives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from sepnas.spec.architecture import Count, DevicePart
from sepnas.spec.document import Part
from sepnas.spec.policy import Lag, MergeRule
from sepnas.spec.wire import WireFormat

Objective = Literal["accuracy", "latency_s", "payload_bytes", "energy_j", "memory_bytes"]
DIRECTIONS: Mapping[Objective, Literal["maximize", "minimize"]] = MappingProxyType(
    {
        "accuracy": "maximize",
        "latency_s": "minimize",
        "payload_bytes": "minimize",
        "energy_j": "minimize",
        "memory_bytes": "minimize",
    }
)
MOST_PERMUTED_DEVICES = 6
"""Up to here ``permutations`` lists all orders of the devices (720); beyond, they are to be named."""


class NetworkSpace(Part):
    """The networks: the family's numbers, and either ``parts`` or the numbers that equal parts are made from.

    ``cardinality`` is of the whole network: each of ``num_devices`` devices gets an equal share of the groups.
    """

    depth: Annotated[int, Field(ge=11)]
    image_size: Annotated[int, Field(ge=4)] = 32
    in_channels: Count = 3
    num_classes: Annotated[int, Field(ge=2)] = 100
    stem_channels: Count = 16
    stem_stride: Annotated[int, Field(ge=1, le=2)] = 1
    parts: Annotated[tuple[DevicePart, ...], Field(min_length=1)] | None = None
    num_devices: Count | None = None
    cardinality: Count | None = None
    bottleneck_width: Count | None = None
    output_channels: Count = 64

    @model_validator(mode="after")
    def _parts_or_numbers(self) -> Self:
        numbers = {
            "num_devices": self.num_devices,
            "cardinality": self.cardinality,
            "bottleneck_width": self.bottleneck_width,
        }
        given = [name for name, value in numbers.items() if value is not None]
        if self.parts is not None and given:
            raise ValueError(f"give either `parts` or numbers for equal parts, got `parts` and `{given[0]}`")
        if self.parts is None and len(given) < len(numbers):
            missing = next(name for name in numbers if name not in given)
            raise ValueError(f"`{missing}` is missing; or give `parts`, one entry for each device")
        if self.num_devices and self.cardinality and self.cardinality % self.num_devices:
            raise ValueError(
                f"`cardinality` (={self.cardinality}) must be divisible by `num_devices` (={self.num_devices})"
            )
        if (self.depth - 2) % 9:
            raise ValueError(f"`depth` must be 9n + 2 (11, 20, 29, ...), got {self.depth}")
        return self

    def device_parts(self) -> tuple[DevicePart, ...]:
        if self.parts is not None:
            return self.parts
        num_devices, cardinality, width = self.num_devices or 1, self.cardinality or 1, self.bottleneck_width or 1
        share = DevicePart(
            cardinality=cardinality // num_devices, bottleneck_width=width, output_channels=self.output_channels
        )
        return (share,) * num_devices


class PolicySpace(Part):
    """The transmission policies: where messages may be exchanged, and what each exchange point may choose.

    ``exchange_points``: ``all`` blocks, the ``even`` blocks of each stage (without the block that ends it, as the
    paper has it), or a list of blocks. ``patterns``: names as in ``sepnas.spec.patterns``, and ``permutations`` for
    all of them. ``readouts``: ``device:R`` or ``mean``. ``merges`` and ``readouts`` are one choice for the network.
    """

    exchange_points: Literal["all", "even"] | tuple[int, ...] = "all"
    patterns: Annotated[tuple[str, ...], Field(min_length=1)]
    fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (1.0,)
    wires: Annotated[tuple[WireFormat, ...], Field(min_length=1)] = ("fp32",)
    lags: Annotated[tuple[Lag, ...], Field(min_length=1)] = (0,)
    merges: Annotated[tuple[MergeRule, ...], Field(min_length=1)] = ("mean",)
    readouts: Annotated[tuple[str, ...], Field(min_length=1)] = ("device:0",)

    @field_validator("exchange_points", mode="before")
    @classmethod
    def _known_points(cls, value: Any) -> Any:
        blocks = isinstance(value, list | tuple) and all(type(block) is int and block >= 0 for block in value)
        if not blocks and value not in ("all", "even"):
            raise ValueError(f"expected `all`, `even`, or a list of block numbers from 0, got {value!r}")
        if blocks and list(value) != sorted(set(value)):
            raise ValueError(f"block numbers must rise and each stand once, got {list(value)}")
        return tuple(value) if blocks else value

    @field_validator("patterns", "fractions", "wires", "lags", "merges", "readouts")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"each choice may stand once, {twice[0]!r} stands {values.count(twice[0])} times")
        return values

    def pattern_names(self, num_devices: int) -> tuple[str, ...]:
        """The patterns with ``permutations`` written out."""
        names: list[str] = []
        for name in self.patterns:
            names += _all_permutations(num_devices) if name == "permutations" else [name]
        return tuple(dict.fromkeys(names))


class Constraints(Part):
    """Bounds that a candidate must keep; without a number there is no bound.

    ``max_memory_bytes`` is for each device, and beside it each device's own memory in the cluster counts.
    """

    max_latency_s: Annotated[float, Field(gt=0)] | None = None
    max_payload_bytes: Annotated[int, Field(ge=0)] | None = None
    max_memory_bytes: Annotated[int, Field(gt=0)] | None = None


def _all_permutations(num_devices: int) -> list[str]:
    orders = permutations(range(num_devices))
    return ["permutation:" + "".join(map(str, order)) for order in orders]
