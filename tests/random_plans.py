"""Hypothesis strategy: small valid plans that no front end wrote, with the layers that their segments name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sepnas.nets.planned import Layers, Lookup
from sepnas.plan.merges import MERGE_KINDS
from sepnas.plan.plan import Piece, Plan, Port, Segment
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.plan.wire import LEVELS, WIRE_FORMATS

MAX_SIDE, MAX_CHANNELS = 5, 4


class Mix(nn.Module):
    """Any inputs of one shape to outputs of other channels: elementwise, so every executor rounds alike."""

    def __init__(self, channels: int, num_outputs: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.factors = nn.Parameter(torch.randn(num_outputs, channels, 1, 1, generator=generator))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        total = inputs[0]
        for each in inputs[1:]:
            total = total + each
        channels = self.factors.shape[1]
        wide = torch.cat([total] * -(-channels // total.shape[1]), 1)[:, :channels]
        outputs = tuple(torch.relu(wide * factor) - 0.5 * wide for factor in self.factors)
        return outputs if len(outputs) > 1 else outputs[0]


@dataclass
class RandomPlan:
    """A plan with its layers, merge weights and learned scales; they are trainable."""

    plan: Plan
    layers: dict[tuple[int, str], nn.Module]
    weights: dict[tuple[int, str], list[nn.Parameter]]
    log_steps: dict[str, nn.Parameter]

    def lookup(self) -> Lookup:
        def layers(rank: int, segment: Segment) -> Layers:
            return [(name, self.layers[rank, name]) for name in segment.layers]

        return Lookup(layers, lambda rank, name: self.weights[rank, name], self.log_steps.__getitem__)

    def scale(self, name: str | None) -> np.float32 | None:
        return np.float32(self.log_steps[name].detach().exp().numpy()) if name else None


@dataclass
class _Device:
    steps: list[Step] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)
    coming: list[tuple[Recv, Shape]] = field(default_factory=list)


class _Writer:
    """Writes the programs of all devices at once, in an order in which they can be carried out."""

    def __init__(self, draw: st.DrawFn, wires: tuple[str, ...]) -> None:
        self.draw, self.wires, self.tag = draw, wires, 0
        self.devices = [_Device() for _ in range(draw(st.integers(2, 3)))]
        self.made = RandomPlan(Plan((), (), (), (), ()), {}, {}, {})
        self.names = 0

    def choose(self, values: Any) -> Any:
        return self.draw(st.sampled_from(list(values)))

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def next_tag(self) -> int:
        self.tag += 1
        return self.tag - 1

    def region(self, shape: Shape) -> Region:
        starts = [self.draw(st.integers(0, size - 1)) for size in shape.dims]
        stops = [self.draw(st.integers(start + 1, size)) for start, size in zip(starts, shape.dims, strict=True)]
        return Region.whole(shape) if self.draw(st.booleans()) else Region(tuple(zip(starts, stops, strict=True)))

    def inputs(self) -> list[Port]:
        ports = []
        for number in range(self.draw(st.integers(1, 2))):
            sides = [self.draw(st.integers(1, MAX_SIDE)) for _ in range(2)]
            shape = Shape.chw(self.draw(st.integers(1, MAX_CHANNELS)), *sides)
            pieces = []
            for rank, device in enumerate(self.devices):
                tag, region = self.next_tag(), self.region(shape)
                pieces.append(Piece(region, rank, tag, self.choose(self.wires)))
                device.shapes[f"x{number}"] = region.shape(shape)
                device.steps.append(Recv(tag, CLIENT, f"x{number}"))
            ports.append(Port(f"input{number}", shape, tuple(pieces)))
        return ports

    def step(self) -> None:
        rank = self.draw(st.integers(0, len(self.devices) - 1))
        kinds = (self.compute, self.slice, self.send, self.send, self.receive, self.merge, self.concat, self.assemble)
        self.choose(kinds)(rank, self.devices[rank])

    def compute(self, rank: int, device: _Device) -> None:
        first = self.choose(device.shapes)
        alike = [name for name, shape in device.shapes.items() if shape == device.shapes[first]]
        inputs = (first, *alike[: self.draw(st.integers(0, 2))])
        segment, channels = self.name("s"), self.draw(st.integers(1, MAX_CHANNELS))
        outputs = tuple(self.name("c") for _ in range(self.draw(st.integers(1, 2))))
        ends = [f"{segment}-{end}" for end in range(self.draw(st.integers(1, 2)))]
        for end, layer in enumerate(ends):
            count = len(outputs) if end == len(ends) - 1 else 1
            self.made.layers[rank, layer] = Mix(channels, count, self.names)
        ways = tuple(f"in{n}" for n in range(len(inputs))), tuple(f"out{n}" for n in range(len(outputs)))
        device.segments[segment] = Segment(segment, rank, tuple(ends), 1, 1, 0, 0, (), (), *ways)
        device.steps.append(Compute(segment, inputs, outputs))
        for output in outputs:
            device.shapes[output] = Shape.chw(channels, *device.shapes[first].dims[1:])

    def slice(self, rank: int, device: _Device, name: str | None = None, region: Region | None = None) -> str:
        name = name or self.choose(device.shapes)
        region = region or self.region(device.shapes[name])
        output = self.name("v")
        device.steps.append(Slice(name, region, output))
        device.shapes[output] = region.shape(device.shapes[name])
        return output

    def send(self, rank: int, device: _Device) -> None:
        to = self.choose(other for other in range(len(self.devices)) if other != rank)
        name, wire, scale = self.choose(device.shapes), self.choose(self.wires), None
        region, tag = self.region(device.shapes[name]), self.next_tag()
        if wire in LEVELS and self.draw(st.booleans()):
            scale = f"{name}_{rank}_{wire}"
            self.made.log_steps.setdefault(scale, nn.Parameter(torch.tensor(0.1).log()))
        device.steps.append(Send(name, region, wire, to, tag, scale))
        self.devices[to].coming.append((Recv(tag, rank, self.name("r")), region.shape(device.shapes[name])))

    def receive(self, rank: int, device: _Device) -> None:
        if device.coming:
            recv, shape = device.coming.pop(0)
            device.steps.append(recv)
            device.shapes[recv.tensor] = shape

    def merge(self, rank: int, device: _Device) -> None:
        kind, axis = self.choose(("mean", "weighted", "convolve", "sum")), self.choose("CHW")
        own = self.choose(device.shapes)
        shape, place = device.shapes[own], "CHW".index(axis)
        others = [
            name
            for name, each in device.shapes.items()
            if each.dims[place] <= shape.dims[place]
            and each.dims[:place] + each.dims[place + 1 :] == shape.dims[:place] + shape.dims[place + 1 :]
        ]
        if kind == "convolve":
            axis, others = "C", [name for name, each in device.shapes.items() if each.dims[1:] == shape.dims[1:]]
        inputs = (own, *self.draw(st.lists(st.sampled_from(others), min_size=1, max_size=3)))
        parameter, output = (self.name("w") if MERGE_KINDS[kind].learned else None), self.name("m")
        if parameter:
            numbers = [self.draw(st.floats(0.1, 0.9)) for _ in inputs[1:]]
            sizes = [(shape.dims[0], device.shapes[name].dims[0]) if kind == "convolve" else () for name in inputs[1:]]
            made = [torch.full(dims, number) for dims, number in zip(sizes, numbers, strict=True)]
            self.made.weights[rank, parameter] = list(map(nn.Parameter, made))
        device.steps.append(Merge(kind, inputs, output, parameter, axis))
        device.shapes[output] = shape

    def concat(self, rank: int, device: _Device) -> None:
        axis, name = self.choose("CHW"), self.choose(device.shapes)
        dims, place = device.shapes[name].dims, "CHW".index(axis)
        rows = [(0, size) for size in dims]
        rows[place] = (0, self.draw(st.integers(1, dims[place])))
        inputs, output = (name, self.slice(rank, device, name, Region(tuple(rows)))), self.name("j")
        sizes = [*dims]
        sizes[place] += rows[place][1]
        device.steps.append(Merge("concat", inputs, output, axis=axis))
        device.shapes[output] = Shape.chw(*sizes)

    def assemble(self, rank: int, device: _Device) -> None:
        """Cut a tensor along one or two axes and put it together again, in any order."""
        name, output = self.choose(device.shapes), self.name("a")
        whole = [(0, size) for size in device.shapes[name].dims]
        regions = [Region(tuple(whole))]
        for axis in self.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2)):
            regions = [half for region in regions for half in self._halves(region, axis)]
        regions = self.draw(st.permutations(regions))
        inputs = tuple(self.slice(rank, device, name, region) for region in regions)
        offsets = tuple(tuple(start for start, _ in region.ranges) for region in regions)
        device.steps.append(Merge("assemble", inputs, output, offsets=offsets))
        device.shapes[output] = device.shapes[name]

    def _halves(self, region: Region, axis: int) -> list[Region]:
        start, stop = region.ranges[axis]
        if stop - start < 2:
            return [region]
        cut = self.draw(st.integers(start + 1, stop - 1))
        ways = ((start, cut), (cut, stop))
        return [Region((*region.ranges[:axis], way, *region.ranges[axis + 1 :])) for way in ways]

    def outputs(self) -> list[Port]:
        """One or two; the first from all devices, if their last tensors fit side by side."""
        ports = []
        for number in range(self.draw(st.integers(1, 2))):
            last = [list(device.shapes.items())[-1] for device in self.devices]
            sides = {shape.dims[1:] for _, shape in last}
            chosen = range(len(last)) if len(sides) == 1 else [self.draw(st.integers(0, len(last) - 1))]
            pieces, start = [], 0
            for rank in chosen:
                name, shape = last[rank]
                tag, wire, stop = self.next_tag(), self.choose(self.wires), start + shape.dims[0]
                self.devices[rank].steps.append(Send(name, Region.whole(shape), wire, CLIENT, tag))
                region = Region(((start, stop), *((0, size) for size in shape.dims[1:])))
                pieces.append(Piece(region, rank, tag, wire))
                start = stop
            ports.append(Port(f"output{number}", Shape.chw(start, *last[chosen[0]][1].dims[1:]), tuple(pieces)))
        return ports


@st.composite
def random_plans(draw: st.DrawFn, wires: tuple[str, ...] = WIRE_FORMATS) -> RandomPlan:
    """Plans of two or three devices with every kind of step; ``wires`` are the formats of their messages."""
    writer = _Writer(draw, wires)
    inputs = writer.inputs()
    for _ in range(draw(st.integers(1, 12))):
        writer.step()
    for rank, device in enumerate(writer.devices):
        while device.coming:
            writer.receive(rank, device)
    outputs = writer.outputs()
    writer.made.plan = Plan(
        tuple(tuple(device.steps) for device in writer.devices),
        tuple(device.segments for device in writer.devices),
        tuple(device.shapes for device in writer.devices),
        tuple(inputs),
        tuple(outputs),
    )
    return writer.made
