"""Traces modules that read sizes, axes and shapes out of tensors of their own, such as those made of an ONNX file.

``torch.export`` takes all tensors of a module for unknown values. Here, whatever does not depend on the inputs is
computed at once while the module is traced, so that it may become a plain number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree


class NumbersAtOnce(nn.Module):
    """A module whose whole numbers are known while it is traced; other tensors of its own are weights.

    ``made`` is changed: its buffers of whole numbers are no buffers any more, those of other numbers are parameters.
    """

    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made
        for module in made.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    continue
                delattr(module, name)
                module.__dict__[name] = buffer
        for name, buffer in list(made.named_buffers(recurse=False)):
            delattr(made, name)
            made.register_parameter(name, nn.Parameter(buffer, requires_grad=False))

    def forward(self, *inputs: Tensor) -> Any:
        with _AtOnce():
            return self.made(*inputs)


class _AtOnce(TorchFunctionMode):
    """Computes without tracing what is given no tensor of the trace."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if any(isinstance(each, FakeTensor | FunctionalTensor) for each in _pytree.tree_leaves((args, given))):
            return func(*args, **given)
        with unset_fake_temporarily(), disable_proxy_modes_tracing():
            return func(*args, **given)
