"""Computes convolutions, forward and backward, each in a process of its own, and says what became of each.

Started by ``run.py``: reads cases as lines of JSON, answers each with a line. The process that reads them never
computes: its children do.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

import torch
from shapes import Case, Shape
from torch import Tensor, nn
from torch.nn import functional

from sepnas.nets.blocks import conv_bn

HANGS_S = 30.0
TOLERANCE = {"fp32": 1e-4, "bf16": 4e-2}


def layer_of(case: Case) -> nn.Conv2d:
    shape = case.shape
    sizes = (shape.inputs, shape.outputs, shape.kernel, shape.stride)
    if case.way == "sepnas":
        return conv_bn(*sizes, shape.groups)[0]  # type: ignore[return-value]
    return nn.Conv2d(*sizes, padding=shape.kernel // 2, groups=shape.groups, bias=False)


def difference(case: Case) -> float:
    """The largest of output and both gradients, relative to the largest number of a computation in fp64."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    shape, layer = case.shape, layer_of(case)
    layout = torch.channels_last if case.layout == "channels last" else torch.contiguous_format
    kind = torch.float32 if case.precision == "fp32" else torch.bfloat16
    layer = layer.to(memory_format=layout).to(kind)  # type: ignore[call-overload]
    x = torch.randn(shape.batch, shape.inputs, shape.side, shape.side).to(kind).to(memory_format=layout)
    y = layer(x.requires_grad_())
    gradient = torch.randn(y.shape).to(kind).contiguous(memory_format=layout)
    y.backward(gradient)
    exact = [t.detach().double().contiguous().requires_grad_() for t in (x, layer.weight)]
    expected = functional.conv2d(exact[0], exact[1], None, shape.stride, shape.kernel // 2, 1, shape.groups)
    expected.backward(gradient.double())
    found = (y, x.grad, layer.weight.grad)
    return max(_relative(a, b) for a, b in zip(found, (expected, exact[0].grad, exact[1].grad), strict=True))


def _relative(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    worst = float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())
    return worst if worst == worst else float("inf")


def outcome(case: Case) -> str:
    """``right``, ``wrong``, ``hung`` or the name of a signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            right = difference(case) <= TOLERANCE[case.precision]
            os.write(writer, b"right" if right else b"wrong")
        finally:
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], HANGS_S)
    if not ready:
        os.kill(child, signal.SIGKILL)
    said = os.read(reader, 16).decode() if ready else "hung"
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return said if said and said != "hung" and not os.WIFSIGNALED(status) else said or _name(status)


def _name(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"


def main() -> None:
    # what torch imports late is imported here, once; one thread: a process of several threads should not fork
    difference(Case(Shape(1, 1, 1, 4, 4, 4, 1), "contiguous", "fp32", 1, "sepnas"))
    for line in sys.stdin:
        fields = json.loads(line)
        print(outcome(Case(**fields | {"shape": Shape(**fields["shape"])})), flush=True)


if __name__ == "__main__":
    main()
