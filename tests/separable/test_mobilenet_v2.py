"""MobileNetV2: the counts of torchvision's network, and its shape on small images."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sepnas.separable.architecture import named_architecture
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.train.vision import import_torchvision

PUBLISHED = named_architecture("mobilenetv2_6x16", num_classes=1000, image_size=224, stem_stride=2)


def test_it_is_torchvisions_network() -> None:
    """Parameters and MACs at 224 pixels are those of torchvision's MobileNetV2: 3.5 and 300.8 million."""
    with torch.device("meta"):
        network = import_torchvision("models").mobilenet_v2().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 224, 224))
    assert count_parameters(PUBLISHED) == sum(weight.numel() for weight in network.parameters()) == 3_504_872
    assert 2 * count_macs(PUBLISHED, 0) == counter.get_total_flops() == 2 * 300_774_272


def test_its_layers_have_the_published_shapes() -> None:
    """The outputs of the seven stages are those of table 2 of arXiv 1801.04381."""
    ends = PUBLISHED.stages.ends
    shapes = [device_layers(PUBLISHED, 0)[1 + block].output.dims for block in ends]
    assert shapes == [
        (16, 112, 112), (24, 56, 56), (32, 28, 28), (64, 14, 14), (96, 14, 14), (160, 7, 7), (320, 7, 7),
    ]  # fmt: skip


@pytest.mark.parametrize(("stem_stride", "sides"), [(1, [32, 32, 16, 8, 8, 4, 4]), (2, [16, 8, 4, 2, 2, 1, 1])])
def test_small_images_are_halved_less(stem_stride: int, sides: list[int]) -> None:
    """With a stem of stride 1 the second stage keeps its size as well: 32 pixels end as 4."""
    small = named_architecture("mobilenetv2_6x16", stem_stride=stem_stride)
    found = [device_layers(small, 0)[1 + block].output.dims[1] for block in small.stages.ends]
    assert found == sides


def test_devices_share_the_expansions() -> None:
    """Over three devices each has two of the six expansions, a third of the last convolution, and all outputs."""
    layers, whole = (device_layers(named_architecture("mobilenetv2_6x16", devices), 0) for devices in (3, 1))
    for own, other in zip(layers[2:-1], whole[2:-1], strict=True):  # the first block has no expansion
        assert own.output == other.output
        assert 3 * own.operators[0].out_channels == other.operators[0].out_channels
        assert own.operators[1].groups == own.operators[1].in_channels
    assert layers[-1].operators[0].out_channels == 427
