"""Depthwise convolutions in bf16 on a CPU, with gradients that are faster than torch's.

The gradients of oneDNN's depthwise convolutions take two to four times as long in bf16 as in fp32 (measured with torch
2.13), except for windows of 3x3 that move by one pixel. The convolution itself is faster in bf16. So the gradients of
windows of 3x3 are computed in fp32, and those of larger ones as convolutions, which takes a half to a tenth of that:
the gradient of the weights is the convolution of each image and channel with the gradient of the output as the window.
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
    """The convolution in bf16; its gradients are computed in fp32, or as convolutions in bf16."""
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
        if weight.shape[2] * weight.shape[3] <= _FAST[0] * _FAST[1]:
            needed = [*ctx.needs_input_grad[:2], ctx.bias_sizes is not None and ctx.needs_input_grad[2]]
            return (*_in_fp32(grads[0], x, weight, ctx.bias_sizes, ctx.settings, needed), None)
        grad_x = _input_gradient(grads[0], x, weight, ctx.settings) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(grads[0], x, weight, ctx.settings) if ctx.needs_input_grad[1] else None
        grad_bias = grads[0].sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None


def _in_fp32(
    grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, settings: Settings, needed: list[bool]
) -> list[Tensor | None]:
    """The gradients of input, weight and bias that are needed, by torch in fp32, returned in bf16."""
    stride, padding, dilation, groups = settings
    found = torch.ops.aten.convolution_backward(
        grad.float(), x.float(), weight.float(), bias_sizes, stride, padding, dilation, False, [0, 0], groups, needed
    )
    return [None if each is None else each.to(torch.bfloat16) for each in found]


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, settings: Settings) -> Tensor | None:
    """A convolution with the mirrored window, if the window moves by one pixel."""
    stride, padding, dilation, groups = settings
    around = [d * (side - 1) - p for d, side, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    if stride != [1, 1] or min(around) < 0:
        return _in_fp32(grad, x, weight, None, settings, [True, False, False])[0]
    return torch.conv2d(grad, weight.flip(2, 3), None, 1, around, dilation, groups)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """Each image's channels are convolved with the gradient of their output; the sum is that of the images."""
    stride, padding, dilation, _ = settings
    images, channels, (height, width) = len(x), x.shape[1], weight.shape[2:]
    planes = x.contiguous(memory_format=torch.contiguous_format).view(1, images * channels, *x.shape[2:])
    windows = grad.contiguous(memory_format=torch.contiguous_format).view(images * channels, 1, *grad.shape[2:])
    found = torch.conv2d(planes, windows, None, dilation, padding, stride, images * channels)
    # a stride may leave pixels at the end that no window reached
    found = found[:, :, :height, :width].reshape(images, channels, height, width)
    return found.float().sum(0)[:, None].to(torch.bfloat16)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value]
