"""The layers of the CIFAR ResNeXt family, each for one device's narrow network."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROW_CHANNELS = 16
"""With fewer input channels, oneDNN's gradient of a strided 1x1 convolution in channels-last layout writes past its
scratchpad: it crashes or silently corrupts memory (uxlfoundation/oneDNN issue 6035; `experiments/narrow-convolutions`).
"""


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a workaround for narrow strided 1x1 convolutions in channels-last layout.

    torch's gradient of these corrupts memory. They subsample the input by ``stride`` first: same result, same speed.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self._spoils_memory(x_BCHW):
            return super().forward(x_BCHW)
        down, right = self.stride
        taken_BCHW = x_BCHW[:, :, ::down, ::right].contiguous(memory_format=torch.channels_last)
        return functional.conv2d(taken_BCHW, self.weight, self.bias, groups=self.groups)

    def _spoils_memory(self, x_BCHW: Tensor) -> bool:
        if self.kernel_size != (1, 1) or self.stride == (1, 1) or self.weight.shape[1] >= NARROW_CHANNELS:
            return False
        # with one channel or one pixel, strides do not distinguish the layouts
        contiguous = x_BCHW.is_contiguous() and x_BCHW.shape[1] > 1 and x_BCHW.shape[2:].numel() > 1
        in_training = torch.is_grad_enabled() and self.weight.requires_grad
        return in_training and x_BCHW.device.type == "cpu" and not (contiguous and self.weight.stride(3) == 1)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; the padding preserves height and width at stride 1."""
    conv = Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    if not conv.weight.is_meta:  # initialising meta tensors makes torch import its compiler: 1.5 s
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class Stem(nn.Module):
    """3x3 convolution, batch norm, ReLU: ``(B, in_channels, S, S) -> (B, stem_channels, S/stride, S/stride)``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layer = conv_bn(inputs, outputs, 3, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(self.layer(x_BCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3 group convolution, 1x1, ReLU after the addition (arXiv 1611.05431, figure 3c).

    The shortcut is a 1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.reduce = conv_bn(inputs, middle, 1)
        self.group = conv_bn(middle, middle, 3, stride, groups)
        self.expand = conv_bn(middle, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = torch.relu(self.reduce(x_BCHW))
        y_BCHW = torch.relu(self.group(y_BCHW))
        return torch.relu(self.expand(y_BCHW) + self.shortcut(x_BCHW))


class Head(nn.Module):
    """Global average pooling and classifier: ``(B, C, H, W) -> (B, num_classes)``."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if x_BCHW.requires_grad and x_BCHW.is_contiguous(memory_format=torch.channels_last):
            # the gradient of `mean` is an expanded tensor with stride 0, which slows the layers before it
            x_BCHW.register_hook(_in_channels_last)  # type: ignore[no-untyped-call]
        logits: Tensor = self.classifier(x_BCHW.mean((2, 3)))
        return logits


def _in_channels_last(gradient_BCHW: Tensor) -> Tensor:
    return gradient_BCHW.contiguous(memory_format=torch.channels_last)
