"""Operators that treat each value, channel or row for itself: activations, arithmetic, norms, softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sepnas.plan.kinds.kind import (
    AtenCall,
    Attributes,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    broadcast,
    broadcast_region,
    exactly,
    of_samples,
    sizes_text,
    whole,
)
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region


class Pointwise(GraphOperator):
    """Any function of single values, with operands that are broadcast to each other."""

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        return broadcast(*use.inputs.values())

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        rank = len(self.output(use))
        return of_samples(names, rank) or "?" * rank

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        regions = {role: broadcast_region(region.ranges, dims) for role, dims in use.inputs.items()}
        return exactly(regions, use.attributes, region.dims)


class Addition(Pointwise):
    """``self`` + ``alpha`` x ``other``: the only pointwise operator that devices are measured with."""

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        dims = self.output(use)
        channels = dims[1] if len(dims) > 1 else 1
        return (Operator("add", channels, channels, height=math.prod(dims) // channels),)


class AlongAxis(GraphOperator):
    """An operator that needs all values along the axis ``dim``, such as a softmax."""

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        use.axis("dim", len(use["self"]), -1)
        return use["self"]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        rank = len(use["self"])
        return {axis: 1 for axis in range(rank) if axis != use.axis("dim", rank, -1)}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        return exactly({"self": region}, use.attributes, region.dims)


class GatedHalf(AlongAxis):
    """``glu``: one half along ``dim`` times the sigmoid of the other."""

    def output(self, use: OperatorUse) -> Dims:
        dims = list(use["self"])
        axis = use.axis("dim", len(dims), -1)
        if dims[axis] % 2:
            raise ValueError(f"{dims[axis]} values have no halves")
        dims[axis] //= 2
        return tuple(dims)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        axis, ranges = use.axis("dim", len(use["self"]), -1), list(region.ranges)
        ranges[axis] = (0, use["self"][axis])
        return exactly({"self": Region(tuple(ranges))}, use.attributes, region.dims)


class PerChannel(GraphOperator):
    """Operands of one value per channel (axis 1): batch norm in evaluation, PReLU."""

    parameters = ("weight", "bias", "running_mean", "running_var")

    def _data(self, use: OperatorUse) -> tuple[str, Dims]:
        role = "input" if "input" in use.inputs else "self"
        return role, use[role]

    def output(self, use: OperatorUse) -> Dims:
        role, data = self._data(use)
        others = {other: dims for other, dims in use.inputs.items() if other != role}
        if len(data) < 2 or any(dims not in ((data[1],), (1,)) for dims in others.values()):
            raise ValueError(f"{', '.join(map(sizes_text, others.values()))} do not fit input {sizes_text(data)}")
        if use.get("training"):
            raise ValueError("takes its statistics from the batch; call eval() before the import")
        return data

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self._data(use)[1])), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        role, _ = self._data(use)
        regions = {
            other: region if other == role else broadcast_region((region.ranges[1],), dims)
            for other, dims in use.inputs.items()
        }
        return exactly(regions, use.attributes, region.dims)


class BatchNorm(PerChannel):
    """Batch norm with the statistics of training."""

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        return {name: value for name, value in use.attributes.items() if name in ("eps", "training")}

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        fixed = {"training": False, "momentum": 0.0, "eps": use.get("eps", 1e-5), "cudnn_enabled": False}
        return (AtenCall("batch_norm.default", {role: role for role in use.inputs}, fixed),)


class LayerNorm(GraphOperator):
    """Normalises the last axes, those of ``normalized_shape``; also ``rms_norm``."""

    def output(self, use: OperatorUse) -> Dims:
        data, last = use["input"], tuple(use.get("normalized_shape", ()))
        if not last or data[len(data) - len(last) :] != last:
            raise ValueError(f"normalises {sizes_text(last)}, which {sizes_text(data)} does not end with")
        if any(dims != last for role, dims in use.inputs.items() if role != "input"):
            raise ValueError(f"has weights that are not {sizes_text(last)}")
        return data

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["input"]) - len(use.get("normalized_shape", ()))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        regions = {role: region if role == "input" else whole(dims) for role, dims in use.inputs.items()}
        return exactly(regions, use.attributes, region.dims)


class GroupNorm(GraphOperator):
    """Normalises each of ``num_groups`` runs of channels over all positions; a cut keeps groups whole."""

    def _groups(self, use: OperatorUse) -> int:
        return int(use.get("num_groups", 1))

    def output(self, use: OperatorUse) -> Dims:
        data, groups = use["input"], self._groups(use)
        if len(data) < 2 or groups < 1 or data[1] % groups:
            raise ValueError(f"{groups} groups of the channels of {sizes_text(data)}")
        if any(dims != (data[1],) for role, dims in use.inputs.items() if role != "input"):
            raise ValueError(f"has weights for another number than {data[1]} channels")
        return data

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return {0: 1, 1: use["input"][1] // self._groups(use)}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        channels = region.ranges[1]
        regions = {role: region if role == "input" else Region((channels,)) for role in use.inputs}
        return exactly(regions, self._smaller(use, channels), region.dims)

    def _smaller(self, use: OperatorUse, channels: tuple[int, int]) -> dict[str, Any]:
        size = use["input"][1] // self._groups(use)
        return {**use.attributes, "num_groups": (channels[1] - channels[0]) // size}


class InstanceNorm(GroupNorm):
    """Normalises each channel over all positions."""

    def _groups(self, use: OperatorUse) -> int:
        if "running_mean" in use.inputs or not use.get("use_input_stats", True):
            raise ValueError("uses statistics of training")
        return use["input"][1]

    def _smaller(self, use: OperatorUse, channels: tuple[int, int]) -> dict[str, Any]:
        return dict(use.attributes)
