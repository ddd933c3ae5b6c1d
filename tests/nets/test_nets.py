"""Networks: counted and computed as the plan says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sepnas.nets.blocks import Conv2d
from sepnas.nets.exchange import merge_tensors, through_wire
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.layers import count_macs, count_merge_macs, count_parameters, device_layers
from tests.strategies import architectures

QUICK = settings(max_examples=15, deadline=None)


def _counted_macs(network: SeparableNetwork, rank: int, layers: tuple[str, ...]) -> int:
    """MACs of a device by hooks on what really runs."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    segment = network.segment(rank, layers).eval()
    hooks = [module.register_forward_hook(count) for module in segment.modules()]
    a = network.architecture
    segment(torch.zeros(1, a.in_channels, a.image_size, a.image_size))
    for hook in hooks:
        hook.remove()
    return total


@QUICK
@given(architectures())
def test_closed_forms_are_the_modules(architecture: Architecture) -> None:
    """Parameters, MACs, shapes and the names of all weights in the plan are those of the torch modules."""
    network = SeparableNetwork(architecture)
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    assert sum(p.numel() for p in network.parameters()) == count_parameters(architecture)
    for rank in range(architecture.num_devices):
        layers = device_layers(architecture, rank)
        has_head = str(rank) in network.heads
        names = tuple(layer.name for layer in layers)[: None if has_head else -1]
        assert _counted_macs(network, rank, names) == count_macs(architecture, rank) - count_merge_macs(
            architecture, rank
        )
        x = torch.zeros(2, architecture.in_channels, architecture.image_size, architecture.image_size)
        for layer in layers[: len(names)]:
            module = network.segment(rank, (layer.name,)).eval()
            x = module(x)
            shape = layer.output
            assert x.shape[1:] == shape.dims
            stored = [v for v in module.state_dict().values() if v.is_floating_point()]
            assert sum(v.numel() for v in stored) == layer.num_weights
            own = {id(tensor) for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}
            named = {name: tuple(t.shape) for name, t in tensors.items() if id(t) in own}
            assert {weight.name: weight.region.dims for weight in layer.weights} == named


@pytest.mark.parametrize(("name", "devices"), [("resnext56_4x16d", 4), ("resnext56_64x4d", 1)])
def test_published_networks_have_their_parameters(name: str, devices: int) -> None:
    """The torch modules of the published networks have as many parameters as the authors'."""
    architecture = named_architecture(name, devices)
    counted = sum(p.numel() for p in SeparableNetwork(architecture).parameters())
    assert counted == count_parameters(architecture)


def test_one_part_is_the_plain_network() -> None:
    """A separable network of one device is the chain of its layers."""
    torch.manual_seed(0)
    network = SeparableNetwork(named_architecture("resnext11_4x4d", num_classes=5)).eval()
    chain = network.segment(0, ("stem", "block0", "block1", "block2", "head"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x), chain(x))


@given(st.sampled_from(["fp16", "int8", "int4"]), st.integers(0, 2**31))
def test_wire_error_is_bounded(wire: str, seed: int) -> None:
    """What a format loses is at most half a step of it, and each sample has a step of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 2, 2, generator=generator) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    received = through_wire(x, wire)
    span = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(3, 1, 1, 1)
    bound = {"fp16": x.abs() * 2**-10 + 1e-7, "int8": span / 510 * 1.001, "int4": span / 30 * 1.001}[wire]
    assert bool(((received - x).abs() <= bound).all())


def test_constant_map_survives_every_wire() -> None:
    """A map without spread, also all zeros, arrives as it was."""
    for value in (0.0, 2.5):
        x = torch.full((1, 2, 2, 2), value)
        for wire in ("fp32", "fp16", "int8", "int4"):
            assert torch.equal(through_wire(x, wire), x)


def test_gradient_passes_through_the_wire() -> None:
    """Quantisation is invisible to the gradient."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    through_wire(x, "int4").sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_mean_counts_holders_of_each_channel() -> None:
    """A channel that two messages hold is divided by three, one that none holds stays."""
    own = torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    received = [torch.full((1, 2, 1, 1), 4.0), torch.full((1, 1, 1, 1), 7.0)]
    merged = merge_tensors(Merge("mean", ("a", "b", "c"), "d"), Shape.chw(3, 1, 1), [own, *received])
    assert merged.flatten().tolist() == [4.0, 2.5, 1.0]


def test_weighted_merge_at_equal_weights_is_the_mean() -> None:
    """With weights 1/n the weighted merge of whole maps is the mean."""
    tensors, names, shape = list(torch.randn(3, 2, 4, 3, 3)), ("a", "b", "c"), Shape.chw(4, 3, 3)
    mean = merge_tensors(Merge("mean", names, "d"), shape, tensors)
    weighted = merge_tensors(Merge("weighted", names, "d", "merge0"), shape, tensors, [torch.tensor(1 / 3)] * 2)
    torch.testing.assert_close(weighted, mean)


def test_every_parameter_learns() -> None:
    """All-to-all exchange with the mean of the logits gives every parameter a gradient."""
    architecture = named_architecture("resnext11_2x4d", 2, "all-to-all", image_size=8)
    data = architecture.to_data()
    data["policy"]["readout"] = {"kind": "mean"}
    data["policy"]["points"][0]["merge"] = "weighted"
    network = SeparableNetwork(Architecture.from_data(data))
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize("inputs", [1, 8, 15, 16, 24])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_narrow_strided_convolution_is_the_same_sum(inputs: int, layout: torch.memory_format) -> None:
    """Output and gradients are those of fp64, in both layouts, narrow or wide, and in evaluation torch's own."""
    torch.manual_seed(0)
    layer = Conv2d(inputs, 5, 1, 2, bias=False).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(3, inputs, 9, 9).to(memory_format=layout).requires_grad_()
    exact = [each.detach().double().contiguous().requires_grad_() for each in (x, layer.weight)]
    y, expected = layer(x), nn.functional.conv2d(*exact, None, 2)
    for each in (y, expected):
        each.square().sum().backward()
    for found, right in ((y, expected), (x.grad, exact[0].grad), (layer.weight.grad, exact[1].grad)):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.eval()(x.detach()), y)


CRASHED = """
import torch
from sepnas.nets.blocks import Conv2d
torch.set_num_threads(2)
for inputs in (1, 7, 8, 12):
    layer = Conv2d(inputs, 16, 1, 2, bias=False).to(memory_format=torch.channels_last)
    for kind in (torch.float32, torch.bfloat16):
        x = torch.randn(63, inputs, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", kind, enabled=kind is torch.bfloat16):
            for _ in range(5):
                layer(x).float().sum().backward()
"""


def test_narrow_convolutions_do_not_end_the_process() -> None:
    """The shapes that torch's own layer ends with a segmentation fault on machines with AVX-512 are trained."""
    done = subprocess.run([sys.executable, "-c", CRASHED], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
