"""CIFAR ResNets: the published counts, in closed form."""

from __future__ import annotations

import pytest

from sepnas.separable.architecture import named_architecture
from sepnas.separable.layers import count_macs, count_parameters


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """Parameters of a convolution and its batch norm."""
    return inputs * outputs * kernel**2 + 2 * outputs


@pytest.mark.parametrize(("depth", "parameters_m", "macs_m"), [(20, 0.27, 40.8), (56, 0.86, 125.7), (110, 1.73, 253.1)])
def test_basic_blocks_have_the_published_counts(depth: int, parameters_m: float, macs_m: float) -> None:
    """ResNet-20, 56 and 110 of arXiv 1512.03385 on CIFAR-10, with 1x1 shortcuts where the shape changes."""
    network = named_architecture(f"resnet{depth}_1x16", num_classes=10)
    blocks = (depth - 2) // 6
    parameters = conv(3, 16, 3) + 65 * 10 + conv(16, 32, 1) + conv(32, 64, 1)
    for inputs, width in ((16, 16), (16, 32), (32, 64)):
        parameters += conv(inputs, width, 3) + (2 * blocks - 1) * conv(width, width, 3)
    assert count_parameters(network) == parameters
    assert round(parameters / 1e6, 2) == parameters_m
    assert round(count_macs(network, 0) / 1e6, 1) == macs_m


@pytest.mark.parametrize(("depth", "parameters_m", "macs_m"), [(29, 0.31, 47.1), (164, 1.70, 247.6)])
def test_bottleneck_blocks_have_the_published_counts(depth: int, parameters_m: float, macs_m: float) -> None:
    """ResNet-164 has the 1.7 million parameters of arXiv 1603.05027; each block is 1x1, 3x3, 1x1."""
    network = named_architecture(f"resnet{depth}b_1x16", num_classes=10)
    blocks, inputs = (depth - 2) // 9, 16
    parameters = conv(3, 16, 3) + 257 * 10
    for width in (16, 32, 64):
        outputs = 4 * width
        parameters += conv(inputs, outputs, 1) + conv(inputs, width, 1) + (blocks - 1) * conv(outputs, width, 1)
        parameters += blocks * (conv(width, width, 3) + conv(width, outputs, 1))
        inputs = outputs
    assert count_parameters(network) == parameters
    assert round(parameters / 1e6, 2) == parameters_m
    assert round(count_macs(network, 0) / 1e6, 1) == macs_m


def test_a_bottleneck_network_of_one_group_is_a_resnext() -> None:
    """With a cardinality of 1 the two families are one."""
    resnet, resnext = (named_architecture(name, output_channels=64) for name in ("resnet29b_1x16", "resnext29_1x16d"))
    assert count_parameters(resnet) == count_parameters(resnext)
    assert count_macs(resnet, 0) == count_macs(resnext, 0)


@pytest.mark.parametrize(("name", "one"), [("resnet20_4x4", "resnet20_1x16"), ("resnet29b_4x4", "resnet29b_1x16")])
def test_groups_are_shares_of_a_dense_layer(name: str, one: str) -> None:
    """On one device the groups are one layer; over four, each device has a quarter of the inner channels."""
    assert count_parameters(named_architecture(name)) == count_parameters(named_architecture(one))
    parts = named_architecture(name, 4).parts
    assert [(part.cardinality, part.bottleneck_width) for part in parts] == [(1, 4)] * 4
    assert {part.output_channels for part in parts} == {part.output_channels for part in named_architecture(one).parts}
