"""Small graphs of convolutions for the tests of schemes, written down without tracing."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from sepnas.partition.graph import Graph, GraphNode, GraphOutput, GraphTensor
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS

_AXES = {1: "O", 2: "NC", 4: "NCHW"}
_WEIGHT_AXES = {1: "O", 2: "OI", 4: "OIHW"}


class Builder:
    """Puts a graph together, node by node; weights are random."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.nodes: list[GraphNode] = []
        self.weights: dict[str, Tensor] = {}
        self.tensors = {"image": GraphTensor(axes="NCHW", dims=(1, channels, height, width))}
        self.last = "image"

    def dims(self, name: str | None = None) -> tuple[int, ...]:
        return self.tensors[name or self.last].dims

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = torch.rand(dims) + 0.5 if len(dims) == 1 else torch.randn(dims) / dims[1] ** 0.5
        self.tensors[name] = GraphTensor(axes=_WEIGHT_AXES[len(dims)], dims=dims)
        return name

    def add(self, operator: str, inputs: dict[str, str], **attributes: Any) -> str:
        name = f"{operator}{len(self.nodes)}"
        use = OperatorUse(attributes, {role: self.tensors[each].dims for role, each in inputs.items()})
        dims = GRAPH_OPERATORS[operator].output(use)
        self.tensors[name] = GraphTensor(axes=_AXES[len(dims)], dims=dims)
        self.nodes.append(
            GraphNode(name=name, operator=operator, inputs=inputs, outputs=(name,), attributes=attributes)
        )
        self.last = name
        return name

    def conv(self, outputs: int, kernel: int, groups: int = 1, bias: bool = True, **attributes: Any) -> str:
        inputs = {"input": self.last, "weight": self.weight(outputs, self.dims()[1] // groups, kernel, kernel)}
        if bias:
            inputs["bias"] = self.weight(outputs)
        return self.add("conv", inputs, groups=groups, **attributes)

    def norm(self) -> str:
        roles = ("weight", "bias", "running_mean", "running_var")
        return self.add("batch_norm", {"input": self.last, **{r: self.weight(self.dims()[1]) for r in roles}}, eps=1e-5)

    def head(self, classes: int) -> str:
        self.add("mean", {"self": self.last}, dim=(2, 3), keepdim=False)
        weight, bias = self.weight(classes, self.dims()[1]), self.weight(classes)
        return self.add("linear", {"input": self.last, "weight": weight, "bias": bias})

    def graph(self) -> Graph:
        return Graph(
            name="chain", source="test", inputs=("image",), outputs=(GraphOutput(name="scores", tensor=self.last),),
            nodes=tuple(self.nodes), weights=tuple(self.weights), tensors=self.tensors,
        )  # fmt: skip


def equal_chain(layers: int, channels: int, side: int, kernel: int = 3) -> Builder:
    """Layers of one kind, with stride 1 and the padding that keeps the size; each followed by a ReLU."""
    made = Builder(channels, side, side)
    for _ in range(layers):
        made.conv(channels, kernel, padding=(kernel // 2, kernel // 2))
        made.add("relu", {"self": made.last})
    return made


@st.composite
def chains(draw: st.DrawFn) -> Builder:
    """One to five layers: convolutions with any stride, padding, dilation and groups, norms, residuals and pooling."""
    made = Builder(draw(st.integers(1, 4)), draw(st.integers(7, 17)), draw(st.integers(7, 13)))
    for _ in range(draw(st.integers(1, 5))):
        _layer(draw, made)
    if draw(st.booleans()):
        made.head(draw(st.integers(2, 7)))
    return made


def _layer(draw: st.DrawFn, made: Builder) -> None:
    kind = draw(st.sampled_from(("conv", "conv", "conv", "residual", "grouped", "pool")))
    _, channels, height, width = made.dims()
    if kind == "pool" and min(height, width) >= 3:
        made.add(
            "max_pool2d", {"self": made.last}, kernel_size=(3, 3), stride=(2, 2), padding=(draw(st.integers(0, 1)),) * 2
        )
    elif kind == "residual":
        before = made.last
        made.conv(channels, 3, padding=(1, 1), bias=draw(st.booleans()))
        made.norm()
        made.add("add", {"self": made.last, "other": before})
    else:
        groups = draw(st.sampled_from([each for each in range(1, channels + 1) if channels % each == 0]))
        groups = groups if kind == "grouped" else 1
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        reach = dilation * (kernel - 1)
        if min(height, width) <= reach:
            kernel, reach = 1, 0
        padding = (draw(st.integers(0, reach)), draw(st.integers(0, reach)))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        outputs = groups * draw(st.integers(1, 4))
        made.conv(
            outputs, kernel, groups, draw(st.booleans()), padding=padding, stride=stride, dilation=(dilation,) * 2
        )
    made.add("relu", {"self": made.last})
