"""Convolutions and transposed convolutions over one to three axes, grouped, depthwise and dilated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from sepnas.plan.kinds.kind import (
    AtenCall,
    Attributes,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    along,
    exactly,
    sizes_text,
    whole,
)
from sepnas.plan.kinds.terms import Terms
from sepnas.plan.kinds.windows import Windows, is_even, pad_argument, paddings, windows_of
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Range, Region


class Convolution(GraphOperator):
    """``weight`` is (outputs, inputs / groups, kernel...); ``padding`` may hold a pair for each axis."""

    overloads: ClassVar[tuple[str, ...]] = ("conv1d.default", "conv2d.default", "conv3d.default")

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        attributes = dict(use.attributes)
        if isinstance(use.get("padding"), str):  # "same" and "valid"
            kernel = use["weight"][2:]
            attributes["padding"] = _named_padding(use["input"], kernel, use) if use.get("padding") == "same" else 0
        return {name: value for name, value in attributes.items() if name not in ("transposed", "output_padding")}

    def windows(self, use: OperatorUse) -> tuple[Windows, ...]:
        return windows_of(use, use["input"], use["weight"][2:])

    def output(self, use: OperatorUse) -> Dims:
        data, weight, groups = use["input"], use["weight"], use.get("groups", 1)
        if len(data) != len(weight) or len(data) < 3 or data[1] != weight[1] * groups or weight[0] % groups:
            raise ValueError(f"{sizes_text(weight)} is no weight in {groups} groups for input {sizes_text(data)}")
        _check_bias(use, weight[0])
        return (data[0], weight[0], *(axis.count for axis in self.windows(use)))

    def macs(self, use: OperatorUse) -> int:
        return math.prod(self.output(use)) * math.prod(use["weight"][1:])

    def padding_share(self, use: OperatorUse) -> float:
        return 1 - math.prod(1 - each.padding_share for each in self.windows(use))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        groups = use.get("groups", 1)
        spatial = {axis: 1 for axis, each in enumerate(self.windows(use), start=2) if each.can_be_cut}
        return {0: 1, 1: 1 if groups == 1 else use["weight"][0] // groups, **spatial}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        samples, outputs, *spatial = region.ranges
        inputs, groups = _grouped(outputs, use["weight"][0], use["input"][1], use.get("groups", 1))
        covered = [each.inputs(*ranges) for each, ranges in zip(self.windows(use), spatial, strict=True)]
        regions = {
            "input": Region((samples, inputs, *(ranges for ranges, _ in covered))),
            "weight": Region((outputs, *whole(use["weight"][1:]).ranges)),
        }
        if "bias" in use.inputs:
            regions["bias"] = Region((outputs,))
        padding = [list(pair) for _, pair in covered]
        return exactly(regions, {**use.attributes, "padding": padding, "groups": groups}, region.dims)

    def terms(self, use: OperatorUse) -> Terms | None:
        return _input_channels(use)

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        return _share(use, terms, weight_axis=1, dims=self.output(use))

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        count = len(use["weight"]) - 2
        padding, roles = paddings(use, count), {role: role for role in use.inputs}
        overload = self.overloads[count - 1]
        if is_even(padding):
            return (AtenCall(overload, roles, {**use.attributes, "padding": [before for before, _ in padding]}),)
        pad = AtenCall("constant_pad_nd.default", {"self": "input"}, {"pad": pad_argument(padding)})
        return pad, AtenCall(overload, {**roles, "input": ""}, {**use.attributes, "padding": [0] * count})

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        # other than square kernels are as many inputs of a 1x1 kernel: the same MACs
        out, weight, groups = self.output(use), use["weight"], use.get("groups", 1)
        kernel, stride = weight[2:], use.per_axis("stride", len(weight) - 2, 1)
        side = kernel[0] if len(kernel) == 2 and len(set(kernel)) == 1 else 1
        inputs = weight[1] * groups * (1 if side > 1 else math.prod(kernel))
        height, width = (out[0] * math.prod(out[2:-1]), out[-1]) if len(kernel) > 1 else (out[0], out[-1])
        return (Operator("conv", inputs, out[1], side, stride[-1] if side > 1 else 1, groups, height, width),)


class TransposedConvolution(GraphOperator):
    """``weight`` is (inputs, outputs / groups, kernel...); ``crop_padding`` of a part is cut off by its crop."""

    overloads: ClassVar[tuple[str, ...]] = (
        "conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"
    )  # fmt: skip

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        return {name: value for name, value in use.attributes.items() if name != "transposed"}

    def output(self, use: OperatorUse) -> Dims:
        data, weight, groups = use["input"], use["weight"], use.get("groups", 1)
        if len(data) != len(weight) or len(data) < 3 or data[1] != weight[0] or data[1] % groups:
            raise ValueError(f"{sizes_text(weight)} is no weight in {groups} groups for input {sizes_text(data)}")
        _check_bias(use, weight[1] * groups)
        axes = zip(data[2:], *self._numbers(use), strict=True)
        spatial = [(size - 1) * s - 2 * p + d * (k - 1) + 1 + extra for size, k, s, p, d, extra in axes]
        if min(spatial) < 1:
            raise ValueError(f"would make {sizes_text(tuple(spatial))}")
        return (data[0], weight[1] * groups, *spatial)

    def _numbers(self, use: OperatorUse) -> tuple[Dims, ...]:
        """Kernel, stride, padding, dilation and output padding of each axis."""
        kernel = use["weight"][2:]
        names = (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
        return (kernel, *(use.per_axis(name, len(kernel), default) for name, default in names))

    def macs(self, use: OperatorUse) -> int:
        return math.prod(use["input"]) * math.prod(use["weight"][1:])

    def padding_share(self, use: OperatorUse) -> float:
        axes = zip(use["input"][2:], self.output(use)[2:], *self._numbers(use)[:4], strict=True)
        met = [
            sum(0 <= place * s + tap * d - p < outputs for place in range(size) for tap in range(k)) / (outputs * k)
            for size, outputs, k, s, p, d in axes
        ]
        return 1.0 - float(math.prod(met))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        groups = use.get("groups", 1)
        channels = 1 if groups == 1 else use["weight"][1]
        return {0: 1, 1: channels, **dict.fromkeys(range(2, len(use["weight"])), 1)}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        samples, outputs, *spatial = region.ranges
        weight, groups = use["weight"], use.get("groups", 1)
        inputs, own_groups = _grouped(outputs, weight[1] * groups, weight[0], groups)
        axes = zip(spatial, use["input"][2:], *self._numbers(use), strict=True)
        found = [_transposed_inputs(ranges, size, k, s, p, d) for ranges, size, k, s, p, d, _ in axes]
        kernel = whole(weight[2:]).ranges
        regions = {
            "input": Region((samples, inputs, *(ranges for ranges, _, _ in found))),
            "weight": Region((inputs, outputs if groups == 1 else (0, weight[1]), *kernel)),
        }
        if "bias" in use.inputs:
            regions["bias"] = Region((outputs,))
        attributes = {
            **use.attributes, "padding": [0] * len(found), "output_padding": [extra for _, extra, _ in found],
            "groups": own_groups,
        }  # fmt: skip
        sizes = region.dims
        offsets = (0, 0, *(offset for _, _, offset in found))
        crop = Region(tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)))
        return Restriction(regions, attributes, crop)

    def terms(self, use: OperatorUse) -> Terms | None:
        return _input_channels(use)

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        return _share(use, terms, weight_axis=0, dims=self.output(use))

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        overload = self.overloads[len(use["weight"]) - 3]
        return (AtenCall(overload, {role: role for role in use.inputs}, use.attributes),)

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        data, weight, groups = use["input"], use["weight"], use.get("groups", 1)
        outputs = weight[1] * groups * math.prod(weight[2:])
        return (Operator("conv", data[1], outputs, 1, 1, groups, data[0] * math.prod(data[2:-1]), data[-1]),)


def _input_channels(use: OperatorUse) -> Terms | None:
    return Terms.along("input", use["input"], 1) if use.get("groups", 1) == 1 else None


def _share(use: OperatorUse, terms: Region, weight_axis: int, dims: Dims) -> Restriction:
    """A share of the input channels, which are axis 1 of the input."""
    [channels] = terms.ranges
    regions = {"input": along(use["input"], 1, channels), "weight": along(use["weight"], weight_axis, channels)}
    if "bias" in use.inputs and channels[0] == 0:
        regions["bias"] = whole(use["bias"])
    return exactly(regions, use.attributes, dims)


def _check_bias(use: OperatorUse, outputs: int) -> None:
    if use.inputs.get("bias", (outputs,)) != (outputs,):
        raise ValueError(f"bias {sizes_text(use['bias'])} for {outputs} channels")


def _grouped(outputs: Range, all_outputs: int, all_inputs: int, groups: int) -> tuple[Range, int]:
    """The input channels that a range of output channels needs, and the number of its groups."""
    if groups == 1:
        return (0, all_inputs), 1
    first, stop = outputs[0] * groups // all_outputs, outputs[1] * groups // all_outputs
    return (first * all_inputs // groups, stop * all_inputs // groups), stop - first


def _named_padding(data: Dims, kernel: Dims, use: OperatorUse) -> Any:
    """Padding "same" as torch means it: one more at the end where the sum is odd."""
    totals = [d * (k - 1) for k, d in zip(kernel, use.per_axis("dilation", len(kernel), 1), strict=True)]
    return [[total // 2, total - total // 2] for total in totals]


def _transposed_inputs(out: Range, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Any:
    """The inputs that a range of outputs needs, the output padding of the part, and where in it the range begins."""
    first, stop = out[0] + padding, out[1] + padding  # counted from the first output without padding
    reach = dilation * (kernel - 1)
    low = min(max(0, min(-(-(first - reach) // stride), first // stride)), size - 1)
    high = max(min(size, (stop - 1) // stride + 1), low + 1)
    begins, length = low * stride, (high - low - 1) * stride + reach + 1
    return (low, high), max(0, stop - begins - length), first - begins
