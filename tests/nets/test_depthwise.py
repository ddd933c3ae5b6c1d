"""Depthwise convolutions in bf16 learn as in double precision."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sepnas.nets.depthwise import depthwise

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 2)).map(list)


@settings(deadline=None, max_examples=60)
@given(
    side=st.integers(1, 12),
    window=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 3)).map(list),
    dilation=PAIRS,
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    has_bias=st.booleans(),
)
def test_its_gradients_are_those_of_double_precision(
    side: int, window: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int],
    layout: torch.memory_format, has_bias: bool,
) -> None:  # fmt: skip
    """For input, weight and bias, to the precision of bf16: any window, stride, padding and dilation."""
    sizes = (side, side + 1)
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(sizes, padding, dilation, window, strict=True)))
    torch.manual_seed(0)
    x = torch.randn(3, 5, *sizes).to(memory_format=layout).bfloat16().requires_grad_()
    weight = torch.randn(5, 1, *window).bfloat16().requires_grad_()
    bias = torch.randn(5).bfloat16().requires_grad_() if has_bias else None
    given = [each for each in (x, weight, bias) if each is not None]
    exact = [each.detach().double().requires_grad_() for each in given]
    found = depthwise(x, weight, bias, (stride, padding, dilation, 5))
    wanted = torch.conv2d(exact[0], exact[1], exact[2] if has_bias else None, stride, padding, dilation, 5)
    grad = torch.randn(found.shape).bfloat16()
    found.backward(grad)
    wanted.backward(grad.double())
    for own, right in zip(given, exact, strict=True):
        _close(own.grad, right.grad)


def _close(found: Tensor | None, wanted: Tensor | None) -> None:
    assert found is not None
    assert wanted is not None
    assert found.shape == wanted.shape
    assert (found.double() - wanted).norm() <= 0.01 * wanted.norm() + 1e-3
