"""Small graphs, written down without tracing, for contracts and tests. Building one needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sepnas.partition.axes import input_axes, weight_axes, with_spares
from sepnas.partition.graph import Graph, GraphNode, GraphOutput, GraphTensor
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS

if TYPE_CHECKING:
    from torch import Tensor


class Builder:
    """Puts a graph together, node by node; weights are random, by torch's seed. ``dims`` are those of one sample."""

    def __init__(self, *dims: int) -> None:
        self.nodes: list[GraphNode] = []
        self.weights: dict[str, Tensor] = {}
        self.tensors = {"image": GraphTensor(axes=input_axes(1 + len(dims)), dims=(1, *dims))}
        self.last = "image"

    def dims(self, name: str | None = None) -> tuple[int, ...]:
        return self.tensors[name or self.last].dims

    def weight(self, *dims: int) -> str:
        """The name of a new weight."""
        import torch

        name = f"w{len(self.weights)}"
        self.weights[name] = torch.rand(dims) + 0.5 if len(dims) == 1 else torch.randn(dims) / dims[1] ** 0.5
        self.tensors[name] = GraphTensor(axes=weight_axes(len(dims)), dims=dims)
        return name

    def add(self, operator: str, inputs: dict[str, str], **attributes: Any) -> str:
        """Append a node; its name is that of what it makes."""
        name, kind = f"{operator}{len(self.nodes)}", GRAPH_OPERATORS[operator]
        use = OperatorUse(attributes, {role: self.tensors[each].dims for role, each in inputs.items()})
        axes = with_spares(kind.axes(use, {role: self.tensors[each].axes for role, each in inputs.items()}))
        self.tensors[name] = GraphTensor(axes=axes, dims=kind.output(use))
        self.nodes.append(
            GraphNode(name=name, operator=operator, inputs=inputs, outputs=(name,), attributes=attributes)
        )
        self.last = name
        return name

    def then(self, operator: str, role: str = "self", **attributes: Any) -> str:
        """Append a node that takes the last tensor."""
        return self.add(operator, {role: self.last}, **attributes)

    def conv(self, outputs: int, kernel: int, groups: int = 1, bias: bool = True, **attributes: Any) -> str:
        spatial = len(self.dims()) - 2
        weight = self.weight(outputs, self.dims()[1] // groups, *[kernel] * spatial)
        inputs = {"input": self.last, "weight": weight, **({"bias": self.weight(outputs)} if bias else {})}
        return self.add("conv", inputs, groups=groups, **attributes)

    def norm(self) -> str:
        roles = ("weight", "bias", "running_mean", "running_var")
        return self.add("batch_norm", {"input": self.last, **{r: self.weight(self.dims()[1]) for r in roles}}, eps=1e-5)

    def linear(self, outputs: int) -> str:
        weight, bias = self.weight(outputs, self.dims()[-1]), self.weight(outputs)
        return self.add("linear", {"input": self.last, "weight": weight, "bias": bias})

    def plus(self, other: str) -> str:
        return self.add("add", {"self": self.last, "other": other})

    def head(self, classes: int) -> str:
        self.add("mean", {"self": self.last}, dim=(2, 3), keepdim=False)
        return self.linear(classes)

    def gate(self, hidden: int, pooled: str = "mean") -> str:
        """Scale each channel by a function of the whole map: squeeze and excite. ``pooled`` joins the places."""
        before, channels = self.last, self.dims()[1]
        if pooled in ("mean", "amax"):
            self.then(pooled, dim=(2, 3), keepdim=True)
        else:
            self.then(pooled, output_size=(1, 1))
        self.conv(hidden, 1)
        self.then("relu")
        self.conv(channels, 1)
        self.then("hardsigmoid")
        return self.add("mul", {"self": before, "other": self.last})

    def graph(self) -> Graph:
        return Graph(
            name="chain", source="test", inputs=("image",), outputs=(GraphOutput(name="scores", tensor=self.last),),
            nodes=tuple(self.nodes), weights=tuple(self.weights), tensors=self.tensors,
        )  # fmt: skip


def residual() -> Builder:
    """Two residual blocks with a depthwise layer, and a classifier, of 24 channels at 21x21."""
    made = Builder(3, 21, 21)
    made.conv(24, 3, padding=(1, 1))
    for _ in range(2):
        before = made.last
        made.conv(24, 1)
        made.conv(24, 3, groups=24, padding=(1, 1))
        made.conv(24, 1)
        made.norm()
        made.plus(before)
        made.then("relu")
    made.head(10)
    return made


def fully_connected() -> Builder:
    """Two convolutions, and three fully connected layers on their flattened maps."""
    made = Builder(3, 16, 16)
    for _ in range(2):
        made.conv(8, 3, padding=(1, 1), stride=(2, 2))
        made.then("relu")
    made.then("reshape", size=(1, 128))
    for outputs in (32, 24):
        made.linear(outputs)
        made.then("relu")
    made.linear(10)
    return made


def branches() -> Builder:
    """Three branches of convolutions that are joined, a transposed convolution, and a map as the answer."""
    made = Builder(3, 16, 16)
    before = made.conv(8, 3, padding=(1, 1))
    ends = []
    for kernel in (1, 3, 5):
        made.last = before
        made.conv(8, kernel, padding=(kernel // 2, kernel // 2), stride=(2, 2))
        ends.append(made.then("relu"))
    made.add("cat", {f"tensors.{place}": end for place, end in enumerate(ends)}, dim=1)
    made.conv(16, 3, groups=8, padding=(1, 1))
    made.add("conv_transpose", {"input": made.last, "weight": made.weight(16, 8, 2, 2)}, stride=(2, 2))
    return made


def transformer(heads: int = 7) -> Builder:
    """Patches, two blocks of attention and two fully connected layers, and a classifier on the mean token."""
    made, width = Builder(3, 16, 16), 3 * heads
    made.conv(width, 2, stride=(2, 2))
    tokens = made.dims()[2] * made.dims()[3]
    made.then("reshape", size=(1, width, tokens))
    made.then("permute", dims=(0, 2, 1))
    for _ in range(2):
        before = made.last
        _normalised(made)
        _attention(made, heads)
        before = made.plus(before)
        _normalised(made)
        made.linear(4 * width)
        made.then("gelu")
        made.linear(width)
        made.plus(before)
    made.then("mean", dim=(1,), keepdim=False)
    made.linear(10)
    return made


def _normalised(made: Builder) -> None:
    width = made.dims()[-1]
    inputs = {"input": made.last, "weight": made.weight(width), "bias": made.weight(width)}
    made.add("layer_norm", inputs, normalized_shape=(width,), eps=1e-5)


def _attention(made: Builder, heads: int) -> None:
    _, tokens, width = made.dims()
    made.linear(3 * width)
    made.then("reshape", size=(1, tokens, 3, heads, width // heads))
    every = made.then("permute", dims=(0, 2, 3, 1, 4))
    three = [made.add("select", {"self": every}, dim=1, index=index) for index in range(3)]
    made.add("attention", dict(zip(("query", "key", "value"), three, strict=True)))
    made.then("permute", dims=(0, 2, 1, 3))
    made.then("reshape", size=(1, tokens, width))
    made.linear(width)


def video() -> Builder:
    """Convolutions over time, height and width, with pooling, and a classifier."""
    made = Builder(3, 6, 14, 14)
    made.conv(8, 3, padding=(1, 1, 1))
    made.then("relu")
    made.then("max_pool3d", kernel_size=(1, 2, 2), stride=(1, 2, 2), padding=(0, 0, 0))
    made.conv(16, 3, padding=(1, 1, 1), stride=(2, 1, 1))
    made.then("relu")
    made.then("mean", dim=(2, 3, 4), keepdim=False)
    made.linear(10)
    return made


def gated() -> Builder:
    """Two inverted residuals with squeeze and excite, by means and by maxima, and a classifier on pooled maps."""
    made = Builder(3, 17, 17)
    made.conv(8, 3, padding=(1, 1), stride=(2, 2))
    for pooled in ("adaptive_avg_pool2d", "amax"):
        before = made.last
        made.conv(16, 1)
        made.conv(16, 3, groups=16, padding=(1, 1))
        made.then("hardswish")
        made.gate(4, pooled)
        made.conv(8, 1)
        made.plus(before)
    made.then("avg_pool2d", kernel_size=(9, 9))
    made.then("reshape", size=(1, 8))
    made.linear(10)
    return made


SMALL_GRAPHS: Mapping[str, Callable[[], Builder]] = {
    make.__name__: make for make in (residual, gated, fully_connected, branches, transformer, video)
}
"""One small graph of each family, by name."""
