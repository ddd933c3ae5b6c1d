"""Segments to be timed in the runtime, exported like those of a deployment.

Graphs do not depend on sizes, so one file serves all segments of a form (kind, kernel, stride, groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sepnas.deploy.segments import SegmentExporter, segment_weights
from sepnas.deployment.engines.kind import late
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.manifest import SegmentFiles, ShardManifest
from sepnas.deployment.plans import DEFAULT_PLAN, ShardPlan
from sepnas.deployment.verify import file_entry
from sepnas.nets.blocks import conv_bn, max_pooled
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Compute, Step
from sepnas.runtime.engines.shard import LoadedPlan, Shard
from sepnas.runtime.tensors.codec import Array
from sepnas.separable.forms import PoolForm

_NO_DIGEST = "0" * 64


class Probe(Protocol):
    """The computation of a segment; equal probes share one segment."""

    @property
    def name(self) -> str:
        """Unique for each segment; part of a file name."""

    @property
    def form(self) -> str:
        """Everything that the graph depends on; part of a file name."""

    @property
    def input_shape(self) -> Shape: ...

    @property
    def num_outputs(self) -> int: ...

    def module(self) -> nn.Module:
        """The computation with random weights."""


class SideBySide(NamedTuple):
    """Several equal operators in one segment: each reads the input and has weights of its own."""

    operator: Operator
    copies: int

    @property
    def name(self) -> str:
        return "-".join(map(str, (*_numbers(self.operator), f"x{self.copies}")))

    @property
    def form(self) -> str:
        return "-".join(map(str, (*form_of(self.operator), f"x{self.copies}")))

    @property
    def input_shape(self) -> Shape:
        return input_shape(self.operator)

    @property
    def num_outputs(self) -> int:
        return self.copies

    def module(self) -> nn.Module:
        return _SideBySide([_operator_module(self.operator) for _ in range(self.copies)])


def noise(shape: Shape) -> Array:
    """One random sample."""
    random = np.random.default_rng(0)
    return random.standard_normal((1, *shape.dims), dtype=np.float32)


def form_of(each: Operator) -> tuple[str | int, ...]:
    """Everything that an operator's part of a graph depends on, apart from its sizes."""
    if each.kind in ("conv", "max-pool"):
        return each.kind, each.kernel, each.stride, each.groups
    return (each.kind,)


def input_shape(each: Operator) -> Shape:
    if each.kind == "linear":
        return Shape.chw(1, 1, each.in_channels)
    return Shape.chw(each.in_channels, each.height * each.stride, each.width * each.stride)


class _SideBySide(nn.Module):
    """Returns all outputs, so that the engine cannot skip any."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x_BCHW) for module in self.each)


class _Conv(nn.Module):
    def __init__(self, each: Operator) -> None:
        super().__init__()
        self.layer = conv_bn(each.in_channels, each.out_channels, each.kernel, each.stride, each.groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(self.layer(x_BCHW))


class _Add(nn.Module):
    other: Tensor

    def __init__(self, each: Operator) -> None:
        super().__init__()
        self.register_buffer("other", torch.randn(1, each.in_channels, each.height, each.width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(x_BCHW + self.other)


class _Pool(nn.Module):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean((2, 3))


class _MaxPool(nn.Module):
    def __init__(self, each: Operator) -> None:
        super().__init__()
        self.pool = PoolForm(each.kernel, each.stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return max_pooled(x_BCHW, self.pool)

    def extra_repr(self) -> str:
        return str(self.pool)


def write_probes(
    probes: Iterable[Probe],
    folder: Path,
    engine: str = "torch",
    enough: Callable[[int], bool] = lambda written: False,
) -> Shard:
    """Export the probes into an empty folder; returns a shard with their segments, by name, in order.

    Before each export ``enough`` is called with the number of probes written; the rest is left out if it returns true.
    """
    kind = engines()[engines()[engine].graphs]
    exporter, files = SegmentExporter((kind.name,)), {}
    graphs: dict[str, bytes] = {}
    segments: dict[str, SegmentFiles] = {}
    weights: dict[str, Array] = {}
    program: list[Step] = []
    shapes: dict[str, Shape] = {}
    for probe in dict.fromkeys(probes):
        if enough(len(segments)):
            break
        module, shape = probe.module().eval(), probe.input_shape
        segment, form, tensors = probe.name, probe.form, segment_weights(module)
        outputs = tuple(f"y{index}" for index in range(probe.num_outputs))
        if form not in graphs:
            graphs[form] = exporter.export(module, {"x": shape}, outputs)[kind.name]
        stem, graph = form, graphs[form]
        if kind.with_sizes:
            stem, graph = segment, late(kind.with_sizes)(graph, shape, list(tensors.values()))
        file = f"{stem}{kind.suffix}"
        if file not in files:
            (folder / file).write_bytes(graph)
            files[file] = file_entry(folder / file)
        own = {f"{segment}.{name}": tensor.numpy() for name, tensor in tensors.items()}
        segments[segment] = SegmentFiles(files={kind.name: file}, layers=(), outputs=outputs, weights=tuple(own))
        weights |= own
        taken, made = f"{segment}.x", tuple(f"{segment}.{output}" for output in outputs)
        program.append(Compute(segment, (taken,), made))
        shapes |= {taken: shape, **dict(zip(made, _output_shapes(module, shape), strict=True))}
    part = ShardPlan(digest=_NO_DIGEST, program=(), shapes={}, messages=())
    manifest = ShardManifest(
        deployment_id=_NO_DIGEST, rank=0, num_devices=1, plans={DEFAULT_PLAN: part}, segments=segments, files=files
    )  # fmt: skip
    keys = {name: name for name in segments}
    return Shard.of(folder, manifest, [LoadedPlan(DEFAULT_PLAN, tuple(program), {}, weights, shapes, keys)])


def _output_shapes(module: nn.Module, shape: Shape) -> list[Shape]:
    """Of one sample; an engine checks its graph against them."""
    with torch.no_grad():
        found = module(torch.zeros(1, *shape.dims))
    outputs = found if isinstance(found, tuple) else (found,)
    return [Shape(tuple(output.shape[1:]), "CHW"[: output.dim() - 1]) for output in outputs]


def _operator_module(each: Operator) -> nn.Module:
    if each.kind == "conv":
        return _Conv(each)
    if each.kind == "add":
        return _Add(each)
    if each.kind == "max-pool":
        return _MaxPool(each)
    return _Pool() if each.kind == "pool" else nn.Linear(each.in_channels, each.out_channels)


def _numbers(each: Operator) -> tuple[str | int, ...]:
    return (
        each.kind, each.in_channels, each.out_channels, each.kernel, each.stride, each.groups, each.height, each.width
    )  # fmt: skip
