"""The modules of layers, built from their descriptions: torch knows no family of networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.separable.forms import Activation, ConvForm, Form, HeadForm, LayerForm, PoolForm, padding_of

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
    """Convolution without bias, then batch norm; the padding is :func:`padding_of` the kernel."""
    conv = Conv2d(inputs, outputs, kernel, stride, padding=padding_of(kernel), groups=groups, bias=False)
    if not conv.weight.is_meta:  # initialising meta tensors makes torch import its compiler: 1.5 s
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class ConvChain(nn.Module):
    """Convolutions in a row, each with its batch norm and activation, as submodules under their names."""

    def __init__(self, convolutions: Sequence[ConvForm]) -> None:
        super().__init__()
        self.activations = {each.name: each.activation for each in convolutions}
        for each in convolutions:
            self.add_module(each.name, _conv_module(each))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for name, activation in self.activations.items():
            x_BCHW = activated(self._modules[name](x_BCHW), activation)  # type: ignore[misc]
        return x_BCHW

    def extra_repr(self) -> str:
        """Everything that the graph depends on besides submodules and sizes: exports are cached by it."""
        return ", ".join(f"{name}: {activation}" for name, activation in self.activations.items())


class ConvBlock(ConvChain):
    """A stem or a block from its description: ``(B, C, H, W) -> (B, C', H', W')``."""

    def __init__(self, form: LayerForm) -> None:
        super().__init__(form.convolutions)
        self.pool, self.last_pool, self.activation = form.pool, form.last_pool, form.activation
        self.shortcut: nn.Module | None = None
        if form.shortcut != "none":
            self.shortcut = nn.Identity() if form.shortcut == "identity" else _conv_module(form.shortcut)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = max_pooled(x_BCHW, self.pool)
        y_BCHW = super().forward(x_BCHW)
        if self.shortcut is not None:
            y_BCHW = y_BCHW + self.shortcut(x_BCHW)
        return max_pooled(activated(y_BCHW, self.activation), self.last_pool)

    def extra_repr(self) -> str:
        pools = f"pool={self.pool}, last_pool={self.last_pool}"
        return f"{super().extra_repr()}, {pools}, activation={self.activation}"


class Head(ConvChain):
    """Convolutions (often none), global average pooling and classifier: ``(B, C, H, W) -> (B, num_classes)``."""

    def __init__(self, form: HeadForm) -> None:
        super().__init__(form.convolutions)
        self.classifier = nn.Linear(form.classified.size, form.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = super().forward(x_BCHW)
        if x_BCHW.requires_grad and x_BCHW.is_contiguous(memory_format=torch.channels_last):
            # the gradient of `mean` is an expanded tensor with stride 0, which slows the layers before it
            x_BCHW.register_hook(_in_channels_last)  # type: ignore[no-untyped-call]
        logits: Tensor = self.classifier(x_BCHW.mean((2, 3)))
        return logits


def make_module(form: Form) -> nn.Module:
    """The module of a description, with random weights."""
    return Head(form) if isinstance(form, HeadForm) else ConvBlock(form)


def _conv_module(each: ConvForm) -> nn.Sequential:
    return conv_bn(each.inputs.size, each.outputs.size, each.kernel, each.stride, each.groups)


def activated(x: Tensor, activation: Activation) -> Tensor:
    """``x`` after its activation."""
    if activation == "none":
        return x
    return torch.relu(x) if activation == "relu" else functional.relu6(x)


def max_pooled(x_BCHW: Tensor, pool: PoolForm | None) -> Tensor:
    """``x_BCHW`` after a max-pool, if there is one."""
    if pool is None:
        return x_BCHW
    return functional.max_pool2d(x_BCHW, pool.kernel, pool.stride, padding_of(pool.kernel))


def _in_channels_last(gradient_BCHW: Tensor) -> Tensor:
    return gradient_BCHW.contiguous(memory_format=torch.channels_last)
