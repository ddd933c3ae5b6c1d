"""EfficientNet-Lite0: the counts of timm's network."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from sepnas.separable.architecture import named_architecture
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.train.vision import import_timm

PUBLISHED = named_architecture("efficientnet-lite0_6x16", num_classes=1000, image_size=224, stem_stride=2)


def test_it_is_timms_network() -> None:
    """Parameters and MACs at 224 pixels are those of timm's EfficientNet-Lite0: 4.7 and 385.2 million."""
    with torch.device("meta"):
        network = import_timm("models").create_model("efficientnet_lite0").eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 224, 224))
    assert count_parameters(PUBLISHED) == sum(weight.numel() for weight in network.parameters()) == 4_652_008
    assert 2 * count_macs(PUBLISHED, 0) == counter.get_total_flops()


def test_kernels_of_five_and_three_alternate() -> None:
    """The depthwise kernels of the seven stages are those of EfficientNet-B0."""
    layers = device_layers(PUBLISHED, 0)
    ends = [layers[1 + block].operators for block in PUBLISHED.stages.ends]
    kernels = [max(each.kernel for each in operators) for operators in ends]
    assert kernels == [3, 3, 5, 3, 5, 5, 3]
    assert layers[-2].output.dims == (320, 7, 7)
