"""VGG on CIFAR: the published counts, in closed form, and the places of its max-pools."""

from __future__ import annotations

import pytest

from sepnas.errors import SpecError
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.separable.space import SearchSpace

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@pytest.mark.parametrize(
    ("depth", "parameters_m", "macs_m"), [(11, 9.2, 152.8), (13, 9.4, 228.3), (16, 14.7, 313.2), (19, 20.0, 398.1)]
)
def test_the_published_counts(depth: int, parameters_m: float, macs_m: float) -> None:
    """VGG-11, 13, 16 and 19 with batch norm on CIFAR-10: 3x3 convolutions, five stages, one classifier."""
    parameters, macs, inputs, side = 513 * 10, 512 * 10, 3, 32
    for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
        for _ in range(count):
            parameters += 9 * inputs * width + 2 * width
            macs += 9 * inputs * width * side**2
            inputs = width
        side //= 2
    network = named_architecture(f"vgg{depth}_4x16", num_classes=10)
    assert (count_parameters(network), count_macs(network, 0)) == (parameters, macs)
    assert (round(parameters / 1e6, 1), round(macs / 1e6, 1)) == (parameters_m, macs_m)


def test_a_stage_begins_with_a_max_pool() -> None:
    """Each of the last four stages halves the image before its first convolution, and an engine sees the max-pool."""
    layers = device_layers(named_architecture("vgg16_1x64"), 0)
    pooled = [layer.name for layer in layers if layer.operators[0].kind == "max-pool"]
    assert pooled == ["block1", "block3", "block6", "block9"]
    assert [layers[1 + block].output.dims for block in (0, 1, 3, 6, 9)] == [
        (width, 32 >> stage, 32 >> stage) for stage, width in enumerate(WIDTHS)
    ]


def test_images_too_small_for_the_max_pools_are_refused() -> None:
    """Four max-pools need 16 pixels a side after the stem."""
    part = {"bottleneck_width": 4}
    Architecture.from_data({"backbone": "vgg", "depth": 11, "image_size": 16, "parts": [part]})
    with pytest.raises(SpecError, match="`image_size` must be at least 16 "):
        Architecture.from_data({"backbone": "vgg", "depth": 11, "image_size": 15, "parts": [part]})
    with pytest.raises(SpecError, match="`image_size` must be at least 31 "):
        Architecture.from_data({"backbone": "vgg", "depth": 11, "image_size": 30, "stem_stride": 2, "parts": [part]})


def test_depths_that_cannot_share_weights_are_refused() -> None:
    """VGG-11 has no block in its first stage, so its second stage reads other channels than that of VGG-13."""
    network = {"backbone": "vgg", "num_devices": 2, "cardinality": 2, "bottleneck_width": 4}
    policy = {"patterns": ["none"]}
    SearchSpace.from_data({"network": network | {"depth": [13, 16]}, "policy": policy})
    with pytest.raises(SpecError, match="cannot share weights"):
        SearchSpace.from_data({"network": network | {"depth": [11, 13]}, "policy": policy})
