"""Depthwise convolutions in bf16 on a CPU, with gradients in fp32.

The gradients of oneDNN's depthwise convolutions take two to four times as long in bf16 as in fp32 (measured with torch
2.13), except for windows of 3x3 that move by one pixel. The convolution itself is faster in bf16.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from sepnas.plan.kinds.kind import AtenCall

Settings: TypeAlias = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and the number of groups."""
_FAST = (3, 3)


def slow_gradients(call: AtenCall, weight: tuple[int, ...]) -> Settings | None:
    """The settings of a depthwise convolution with slow gradients in bf16; None for any other call."""
    arguments = call.arguments
    groups = arguments.get("groups", 1)
    if call.overload != "conv2d.default" or groups == 1 or weight[1] != 1 or groups != weight[0]:
        return None
    stride, padding, dilation = (
        _pair(arguments.get(n, d)) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    return None if weight[2:] == _FAST and stride == [1, 1] else (stride, padding, dilation, groups)


def in_bf16_on_cpu(x: Tensor) -> bool:
    """Whether a convolution of ``x`` is computed in bf16, by autocast on a CPU, and differentiated."""
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return wanted and x.device.type == "cpu" and torch.is_grad_enabled()


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """The convolution in bf16; its gradients are computed in fp32."""
    parts = (None if each is None else each.to(torch.bfloat16) for each in (x, weight, bias))
    found: Tensor = _Depthwise.apply(*parts, settings)  # type: ignore[no-untyped-call]
    return found


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.bias_sizes = settings, None if bias is None else list(bias.shape)
        stride, padding, dilation, groups = settings
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        needed = [*ctx.needs_input_grad[:2], ctx.bias_sizes is not None and ctx.needs_input_grad[2]]
        found = torch.ops.aten.convolution_backward(
            grads[0].float(), x.float(), weight.float(), ctx.bias_sizes, stride, padding, dilation, False, [0, 0],
            groups, needed,
        )  # fmt: skip
        return (*(None if each is None else each.to(torch.bfloat16) for each in found), None)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value]
