"""Operators as segments that the runtime can run: exported like a deployment's, several equal ones in each.

Graphs do not depend on sizes, so one file serves all operators of a form (kind, kernel, stride, groups).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sepnas.deploy.onnx_graphs import with_sizes
from sepnas.deploy.segments import SegmentExporter, segment_weights
from sepnas.deploy.verify import file_entry
from sepnas.nets.blocks import conv_bn
from sepnas.plan.steps import Operator, Shape
from sepnas.runtime.codec import Array
from sepnas.runtime.shard import Shard
from sepnas.spec.manifest import ENGINE_SUFFIXES, EngineName, SegmentData, ShapeData, ShardManifest


class Probe(NamedTuple):
    """So many operators side by side in one segment: each reads the input, and each has weights of its own."""

    operator: Operator
    copies: int

    @property
    def name(self) -> str:
        return "-".join(map(str, (*_numbers(self.operator), f"x{self.copies}")))

    @property
    def form(self) -> str:
        """What its graph depends on."""
        each = self.operator
        conv = (each.kernel, each.stride, each.groups) if each.kind == "conv" else ()
        return "-".join(map(str, (each.kind, *conv, f"x{self.copies}")))

    def input(self) -> Array:
        """One sample of noise."""
        shape = _input_shape(self.operator)
        random = np.random.default_rng(0)
        return random.standard_normal((1, shape.channels, shape.height, shape.width), dtype=np.float32)


class _SideBySide(nn.Module):
    """``probe.copies`` equal operators; all outputs are given, so that none is left out."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.each = nn.ModuleList(_operator_module(probe.operator) for _ in range(probe.copies))

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


def write_probes(probes: list[Probe], folder: Path, engine: EngineName = "torch") -> Shard:
    """Export the probes into an empty folder; a shard whose segments they are, by name."""
    exporter, files = SegmentExporter((engine,)), {}
    graphs: dict[str, bytes] = {}
    segments: dict[str, SegmentData] = {}
    weights: dict[str, Array] = {}
    for probe in dict.fromkeys(probes):
        module, shape = _SideBySide(probe).eval(), _input_shape(probe.operator)
        if probe.form not in graphs:
            graphs[probe.form] = exporter.export(module, shape)[engine]
        name, graph = probe.form, graphs[probe.form]
        if engine == "onnxruntime":  # its files tell the sizes
            name, graph = probe.name, with_sizes(graph, shape, list(segment_weights(module).values()))
        file = f"{name}{ENGINE_SUFFIXES[engine]}"
        if file not in files:
            (folder / file).write_bytes(graph)
            files[file] = file_entry(folder / file)
        own = {f"{probe.name}.{name}": tensor.numpy() for name, tensor in segment_weights(module).items()}
        segments[probe.name] = SegmentData(files={engine: file}, layers=(), weights=tuple(own))
        weights |= own
    manifest = ShardManifest(
        deployment_id="0" * 64, rank=0, num_devices=1, program=(), shapes={}, messages=(), segments=segments,
        answer=ShapeData(channels=1), files=files,
    )  # fmt: skip
    return Shard(folder, manifest, (), {}, weights)


def _operator_module(each: Operator) -> nn.Module:
    if each.kind == "conv":
        return _Conv(each)
    if each.kind == "add":
        return _Add(each)
    return _Pool() if each.kind == "pool" else nn.Linear(each.in_channels, each.out_channels)


def _input_shape(each: Operator) -> Shape:
    if each.kind == "linear":
        return Shape(1, 1, each.in_channels)
    return Shape(each.in_channels, each.height * each.stride, each.width * each.stride)


def _numbers(each: Operator) -> tuple[str | int, ...]:
    return (
        each.kind, each.in_channels, each.out_channels, each.kernel, each.stride, each.groups, each.height, each.width
    )  # fmt: skip
