"""Stems: their counts in closed form, the published networks at 224 pixels, and the stem of an image size."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sepnas.errors import SpecError
from sepnas.separable.architecture import Architecture, named_architecture, refit
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.separable.layers import count_macs, count_parameters, device_layers, stage_sides
from sepnas.separable.read import ArchitectureOptions, read_architecture
from sepnas.separable.space import SearchSpace
from sepnas.separable.space_network import NetworkSpace
from sepnas.separable.stems.registry import STEMS
from sepnas.train.vision import import_torchvision

PART = {"bottleneck_width": 4}
POLICY = {"patterns": ["none"]}
LARGE = {"num_classes": 1000, "image_size": 224}


def space_network(**network: object) -> NetworkSpace:
    data = {"depth": 20, "num_devices": 2, "cardinality": 2, "bottleneck_width": 4} | network
    return SearchSpace.from_data({"network": data, "policy": POLICY}).network


@pytest.mark.parametrize(
    ("stem", "macs", "weights"),
    [
        ("plain", 224**2 * 9 * 3 * 64, 9 * 3 * 64),
        ("pooled", 112**2 * 9 * 3 * 64, 9 * 3 * 64),
        ("resnet", 112**2 * 49 * 3 * 64, 49 * 3 * 64),
        ("deep", 112**2 * 9 * (3 * 32 + 32 * 32 + 32 * 64), 9 * (3 * 32 + 32 * 32 + 32 * 64)),
        ("patch", 56**2 * 16 * 3 * 64, 16 * 3 * 64),
    ],
)
def test_the_counts_of_each_stem(stem: str, macs: int, weights: int) -> None:
    """MACs and weights of 64 channels at 224 pixels; all but the plain stem give the first stage 56 pixels a side."""
    found = device_layers(named_architecture("resnet18_1x64", stem=stem, **LARGE), 0)[0]
    channels = 128 if stem == "deep" else 64
    assert (found.macs, found.num_parameters) == (macs, weights + 2 * channels)
    assert found.output.dims == (64, 224, 224) if stem == "plain" else (64, 56, 56)
    assert found.num_weights == found.num_parameters + 2 * channels


def test_every_stem_is_counted_here() -> None:
    """A further kind of stem is a further row of counts."""
    assert [*STEMS] == ["plain", "pooled", "resnet", "deep", "patch"]


@pytest.mark.parametrize(
    ("name", "published", "parameters", "macs"),
    [
        ("resnet18_1x64", "resnet18", 11_689_512, 1_814_073_344),
        ("resnet34_4x16", "resnet34", 21_797_672, 3_663_761_408),
        ("resnet50b_1x64", "resnet50", 25_557_032, 4_089_184_256),
        ("resnext50_32x4d", "resnext50_32x4d", 25_028_904, 4_230_479_872),
    ],
)
def test_torchvisions_networks(name: str, published: str, parameters: int, macs: int) -> None:
    """Parameters and MACs at 224 pixels are those of torchvision's ResNet-18, 34, 50 and ResNeXt-50 32x4d."""
    network = named_architecture(name, **LARGE)
    with torch.device("meta"):
        other = getattr(import_torchvision("models"), published)().eval()
        with FlopCounterMode(display=False) as counter:
            other(torch.empty(1, 3, 224, 224))
    assert count_parameters(network) == sum(weight.numel() for weight in other.parameters()) == parameters
    assert 2 * count_macs(network, 0) == counter.get_total_flops() == 2 * macs
    assert stage_sides(network) == [56, 28, 14, 7]


def test_vgg_16_is_as_large_as_published() -> None:
    """At 224 pixels VGG keeps its first convolution of stride 1: the 15.35 billion MACs of its convolutions."""
    network = named_architecture("vgg16_1x64", **LARGE)
    assert count_macs(network, 0) - 512 * 1000 == 15_346_630_656


@pytest.mark.parametrize("name", ["mobilenetv2_6x16", "efficientnet-lite0_6x16"])
def test_mobile_networks_have_the_published_strides(name: str) -> None:
    """At 224 pixels they end with 7 pixels a side, whether the stem has the published stride or one of 4."""
    published = named_architecture(name, **LARGE)
    assert (published.stem, published.stem_stride) == ("plain", 2)
    sides = [stage_sides(each)[-1] for each in (published, named_architecture(name, stem="patch", **LARGE))]
    assert sides == [7, 7]


def test_devices_share_the_layers_but_the_stem() -> None:
    """Over four devices each has a quarter of the inner channels of ResNet-18, and the whole stem."""
    whole, part = (named_architecture("resnet18_4x16", devices, **LARGE) for devices in (1, 4))
    stem = device_layers(whole, 0)[0].macs
    assert stem == device_layers(part, 3)[0].macs
    assert count_macs(part, 0) < 0.4 * count_macs(whole, 0)


@pytest.mark.parametrize(
    ("backbone", "by_size"),
    [
        ("resnext", {32: ("plain", 1), 64: ("plain", 2), 127: ("plain", 2), 128: ("resnet", 4), 224: ("resnet", 4)}),
        ("mobilenet-v2", {32: ("plain", 1), 64: ("plain", 2), 224: ("plain", 2)}),
        ("vgg", {32: ("plain", 1), 224: ("plain", 1)}),
    ],
)
def test_the_stem_of_an_image_size(backbone: str, by_size: dict[int, tuple[str, int]]) -> None:
    """Names and spaces that choose no stem have the family's for their image size."""
    depth = next(depth for depth in range(1, 100) if BACKBONES[backbone].stages(depth))
    for size, wanted in by_size.items():
        named = named_architecture(BACKBONES[backbone].example, image_size=size)
        assert (named.stem, named.stem_stride) == wanted
        found = space_network(backbone=backbone, image_size=size, depth=depth)
        assert (found.stem, found.stem_stride) == wanted


def test_files_keep_their_meaning() -> None:
    """An architecture's file that names no stem has the plain one at any size, and a plain one is not written."""
    data = {"depth": 20, "image_size": 224, "parts": [PART]}
    old = Architecture.from_data(data)
    assert (old.stem, old.stem_stride) == ("plain", 1)
    assert "stem" not in old.to_data()
    assert space_network(image_size=224, stem_stride=2).stem == "plain"
    new = Architecture.from_data(data | {"stem": "deep"})
    assert (new.stem_stride, new.to_data()["stem"], Architecture.from_data(new.to_data())) == (4, "deep", new)


def test_a_space_gives_its_stem_to_every_network() -> None:
    """The stem is written with a space, read again, and part of its architectures."""
    network = {"depth": [10, 18], "backbone": "resnet", "num_devices": 2, "cardinality": 2, "bottleneck_width": 4}
    space = SearchSpace.from_data({"network": network | {"image_size": 224, "stem": "patch"}, "policy": POLICY})
    assert SearchSpace.from_data(space.to_data()) == space
    assert {space.architecture_of(genotype).stem for genotype in (space.largest(), space.smallest())} == {"patch"}


def test_a_named_network_gets_the_stem_of_its_images() -> None:
    """A name whose size comes from the images has the stem of that size."""
    small = named_architecture("resnet18_2x4", 2)
    large = refit(small, "large", 224, 3, 10)
    assert (small.stem, large.stem, large.stem_stride, large.num_classes) == ("plain", "resnet", 4, 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": "resnet", "stem_stride": 2}, "`stem_stride` of the stem 'resnet' must be 4, got 2"),
        ({"stem": "plain", "stem_stride": 4}, "`stem_stride` of the stem 'plain' must be 1 or 2, got 4"),
        ({"stem": "patch", "image_size": 226}, "`image_size` must be a multiple of 4 for the stem 'patch', got 226"),
        ({"stem": "vit"}, "field `stem`: must be 'plain', 'pooled', 'resnet', 'deep' or 'patch', got 'vit'"),
        ({"image_size": [224, 320]}, r"field `image_size`: must be a whole number, got \[224, 320\]"),
        ({"image_size": 16_384}, "field `image_size`: must be at most 8192, got 16384"),
    ],
)
def test_stems_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    """A stride that a stem does not have, an image that patches do not fill, and a stem that does not exist."""
    with pytest.raises(SpecError, match=message):
        Architecture.from_data({"depth": 20, "image_size": 224, "parts": [PART]} | fields)


def test_a_small_image_for_the_pools_of_vgg_is_refused() -> None:
    """VGG's four max-pools need 16 pixels a side after any stem."""
    with pytest.raises(SpecError, match="`image_size` must be at least 61 for a vgg with `stem_stride` 4, got 60"):
        named_architecture("vgg11_4x4", stem="resnet", image_size=60)


def test_depths_of_three_and_of_four_stages_cannot_share_weights() -> None:
    """A space with ResNet-20 and ResNet-18 is refused, and told which depth lacks a stage."""
    with pytest.raises(SpecError, match="`depth` 20 has no block in a stage where 18 has some"):
        space_network(backbone="resnet", depth=[18, 20])


def test_a_stem_is_an_option_of_names() -> None:
    """A name takes a stem; a file that has another one contradicts it."""
    found = read_architecture("resnet18_1x64", ArchitectureOptions(image_size=224, stem="patch"))
    assert (found.stem, found.stem_stride) == ("patch", 4)
    with pytest.raises(SpecError, match="the file has patch, but `stem=` is deep; leave `stem=` out"):
        read_architecture(found, ArchitectureOptions(stem="deep"))
    with pytest.raises(SpecError, match=r"resnet18_1x64: field `stem`: must be 'plain', .*, got 'vit'"):
        read_architecture("resnet18_1x64", ArchitectureOptions(stem="vit"))
