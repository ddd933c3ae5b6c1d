"""Every backbone of the registry: what its descriptions say is what is counted, built, planned, sliced and written."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sepnas.errors import SpecError
from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.supernet import Supernet
from sepnas.plan.document import PlanDocument
from sepnas.plan.liveness import prune
from sepnas.separable.architecture import Architecture, named_architecture, named_policy
from sepnas.separable.backbones.registry import BACKBONES, DEFAULT_BACKBONE
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_merge_macs, count_parameters, device_layers, stage_sides
from sepnas.separable.lower import lower
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.space import SearchSpace
from tests.helpers_runtime import lively_network, run_in_threads
from tests.strategies import architectures, small_depths

ANY_FAMILY = pytest.mark.parametrize("backbone", BACKBONES)
CHEAP = ("resnext", "efficientnet-lite")  # the family of the paper, and one with all kinds of layers
EXPENSIVE = pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=() if name in CHEAP else pytest.mark.slow) for name in BACKBONES]
)
SIGNED = [name for name, kind in BACKBONES.items() if kind.signed_outputs]
TIED = [name for name, kind in BACKBONES.items() if kind.tied_outputs]
QUICK = settings(max_examples=8, deadline=None)


def any_network(backbone: str, data: st.DataObject) -> Architecture:
    return data.draw(architectures(2, 3, backbone))


def images_of(architecture: Architecture, count: int = 2) -> torch.Tensor:
    side = architecture.image_size
    return torch.randn(count, architecture.in_channels, side, side, generator=torch.Generator().manual_seed(0))


def space_of(backbone: str, **network: Any) -> SearchSpace:
    """A small space whose networks differ in depth, cardinality and width."""
    numbers = {
        "backbone": backbone, "depth": shared_depths(backbone), "in_channels": 1, "num_classes": 10, "num_devices": 2,
        "image_size": max(8, BACKBONES[backbone].min_side), "stem_channels": 4, "cardinality": [2, 4],
        "bottleneck_width": [3, 2], "uneven": True,
    }  # fmt: skip
    policy = {
        "patterns": ["none", "all-to-all", "ring:1"], "fractions": [0.5, 1], "wires": ["fp32", "int8"], "lags": [0, 1],
        "merges": ["mean", "weighted"], "readouts": ["device:0", "mean"],
    }  # fmt: skip
    return SearchSpace.from_data({"network": numbers | network, "policy": policy})


def shared_depths(backbone: str) -> list[int]:
    """Two depths that share weights: neither has a stage without blocks that the other has."""
    depths, stages = small_depths(backbone, 3), BACKBONES[backbone].stages
    first = depths[0] if all(stages(depths[0])) == all(stages(depths[1])) else depths[1]
    return depths[depths.index(first) :][:2]


def whole_and_devices(architecture: Architecture) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the whole network, and those of its devices in threads."""
    network, images_bchw = lively_network(architecture), images_of(architecture)
    with torch.inference_mode():
        whole = network(images_bchw).numpy()
    answer, _ = run_in_threads(network, images_bchw.numpy())
    return whole, np.frombuffer(answer, np.float32).reshape(whole.shape)


@EXPENSIVE
@QUICK
@given(data=st.data())
def test_the_modules_are_as_described(backbone: str, data: st.DataObject) -> None:
    """Parameters, shapes, the names of weights, and MACs as torch counts them are those of the descriptions."""
    architecture = any_network(backbone, data)
    network = SeparableNetwork(architecture).eval()
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    assert sum(weight.numel() for weight in network.parameters()) == count_parameters(architecture)
    for rank in range(architecture.num_devices):
        x_bchw, flops = images_of(architecture, 1), 0
        for layer in device_layers(architecture, rank)[: None if str(rank) in network.heads else -1]:
            with FlopCounterMode(display=False) as counter:
                x_bchw = network.segment(rank, (layer.name,))(x_bchw)
            flops += counter.get_total_flops()
            assert x_bchw.shape[1:] == layer.output.dims
            assert all(tensors[weight.name].shape == weight.region.dims for weight in layer.weights)
        assert flops == 2 * (count_macs(architecture, rank) - count_merge_macs(architecture, rank))


@EXPENSIVE
@QUICK
@given(data=st.data())
def test_devices_answer_as_the_whole_network(backbone: str, data: st.DataObject) -> None:
    """The steps of all devices, carried out by the runtime's executors, give the whole network's logits."""
    whole, devices = whole_and_devices(any_network(backbone, data))
    np.testing.assert_allclose(devices, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


@ANY_FAMILY
@QUICK
@given(data=st.data())
def test_plans_are_valid_and_complete(backbone: str, data: st.DataObject) -> None:
    """A plan is the same after a plan file and its checks, and holds nothing that the answer does not need."""
    architecture = any_network(backbone, data)
    plan = build_plan(architecture)
    assert PlanDocument.from_data(PlanDocument.of(plan).to_data()).plan() == plan
    assert prune(lower(architecture)) == plan
    weights = sum(segment.weight_bytes for segments in plan.segments for segment in segments.values())
    assert weights == 4 * sum(
        weight.region.num_values for each in plan.segments for segment in each.values() for weight in segment.weights
    )


@ANY_FAMILY
@QUICK
@given(data=st.data())
def test_architectures_round_trip(backbone: str, data: st.DataObject) -> None:
    """A network that is written and read is the same; the paper's family is not named in the file."""
    architecture = any_network(backbone, data)
    assert Architecture.from_data(architecture.to_data()) == architecture
    assert ("backbone" in architecture.to_data()) == (backbone != DEFAULT_BACKBONE)


@ANY_FAMILY
def test_the_example_is_a_name_of_the_family(backbone: str) -> None:
    """The example of a family is a network of it, on as many devices as its cardinality has factors, and under every
    named policy."""
    kind = BACKBONES[backbone]
    matched = kind.match(kind.example)
    assert matched is not None
    assert [name for name, other in BACKBONES.items() if other.match(kind.example)] == [backbone]
    for devices in (1, 2):
        for policy in NAMED_POLICIES:
            architecture = named_architecture(kind.example, devices, policy)
            assert (architecture.backbone, architecture.depth) == (backbone, matched[0])
            assert build_plan(architecture).num_devices == devices


@EXPENSIVE
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 16))
def test_a_subnet_computes_what_the_supernet_computes(backbone: str, seed: int) -> None:
    """A network of any depth, cardinality and widths that is taken out of the supernet gives the supernet's answers."""
    space = space_of(backbone)
    torch.manual_seed(0)
    supernet = Supernet(space).double()
    architecture = space.architecture_of(space.sample(random.Random(seed).randrange))
    own = supernet.extract(architecture).double().train()
    assert sum(weight.numel() for weight in own.parameters()) == count_parameters(architecture)
    images_bchw = images_of(architecture, 6).double()
    with torch.no_grad():
        torch.testing.assert_close(supernet(images_bchw, architecture), own(images_bchw), rtol=1e-5, atol=1e-5)


@ANY_FAMILY
def test_spaces_round_trip_and_express_named_policies(backbone: str, tmp_path: Path) -> None:
    """A space that is written and read is the same, and has the paper's policies at each of its depths."""
    space = space_of(backbone)
    assert SearchSpace.load(space.save(tmp_path / "space.yaml")) == space
    for depth in space.network.depths:
        for name in NAMED_POLICIES:
            policy = named_policy(name, 2, depth, backbone)
            genotype = space.genotype_of(policy, depth)
            assert genotype is not None
            assert space.architecture_of(genotype).policy.points == policy.points


@ANY_FAMILY
def test_wrong_depths_are_refused(backbone: str) -> None:
    """A depth that the family does not have is refused with those that it has, in architectures and in spaces."""
    kind = BACKBONES[backbone]
    depth = next(depth for depth in range(1, 100) if not kind.stages(depth))
    part = {"bottleneck_width": 2, "output_channels": kind.output_channels(depth, 1, 2)}
    with pytest.raises(SpecError, match="`depth` must be") as refused:
        Architecture.from_data({"backbone": backbone, "depth": depth, "parts": [part]})
    assert kind.depths in str(refused.value)
    with pytest.raises(SpecError, match="`depth` must be"):
        space_of(backbone, depth=[depth])


@ANY_FAMILY
def test_a_stage_keeps_its_shape(backbone: str) -> None:
    """All blocks of a stage output one shape, as messages that are merged a block later need it."""
    for depth in small_depths(backbone, 3):
        architecture = space_of(backbone, depth=depth).architecture_of(space_of(backbone, depth=depth).largest())
        shapes: dict[int, set[Any]] = {}
        for block, layer in enumerate(device_layers(architecture, 0)[1:-1]):
            shapes.setdefault(architecture.stage_of(block), set()).add(layer.output)
        assert all(len(found) == 1 for found in shapes.values())


@ANY_FAMILY
def test_features_of_stages_come_in_order(backbone: str) -> None:
    """What a teacher shows after each stage has the sides that are counted, from the first stage to the last."""
    space = space_of(backbone, depth=small_depths(backbone, 3)[-1])
    architecture = space.architecture_of(space.largest())
    _, stages = SeparableNetwork(architecture).eval().with_stages(images_of(architecture))
    assert [features[0].shape[-1] for features in stages] == stage_sides(architecture)


@ANY_FAMILY
def test_a_deeper_network_has_all_blocks_of_a_shallower_one(backbone: str) -> None:
    """No stage has fewer blocks at a greater depth, so a supernet holds every depth."""
    stages = [BACKBONES[backbone].stages(depth) for depth in small_depths(backbone, 8)]
    for fewer, more in pairwise(stages):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


@pytest.mark.parametrize("backbone", SIGNED)
def test_learned_scales_need_outputs_that_are_not_negative(backbone: str) -> None:
    """Messages with learned scales have no negative levels: a family that sends negative values refuses them."""
    kind = BACKBONES[backbone]
    policy = named_policy("all-to-all", 2, small_depths(backbone, 1)[0], backbone).written_in("int8", "learned")
    depth = small_depths(backbone, 1)[0]
    part = {"bottleneck_width": 4, "output_channels": kind.output_channels(depth, 1, 4)}
    data = {"backbone": backbone, "depth": depth, "parts": [part, part]}
    with pytest.raises(SpecError, match="may output negative values"):
        Architecture.from_data(data | {"policy": policy.to_data()})


def test_an_unknown_family_is_refused_with_those_there_are() -> None:
    """A file that names no family of the registry is told which there are, and a name all forms of names."""
    with pytest.raises(SpecError, match="`backbone`") as refused:
        Architecture.from_data({"backbone": "transformer", "depth": 20, "parts": [{"bottleneck_width": 2}]})
    assert all(name in str(refused.value) for name in BACKBONES)
    with pytest.raises(SpecError, match="unknown architecture 'vit_4x4'") as refused:
        named_architecture("vit_4x4")
    for kind in BACKBONES.values():
        assert f"{kind.name_form} (such as {kind.example})" in str(refused.value)


@pytest.mark.parametrize("backbone", TIED)
def test_tied_outputs_cannot_be_contradicted(backbone: str) -> None:
    """Where output channels follow from the other numbers, a file may leave them out, and not give others."""
    part = {"bottleneck_width": 4}
    depth = small_depths(backbone)[0]
    data = {"backbone": backbone, "depth": depth, "parts": [part]}
    assert Architecture.from_data(data).parts[0].output_channels == BACKBONES[backbone].output_channels(depth, 1, 4)
    with pytest.raises(SpecError, match="leave `output_channels` out"):
        Architecture.from_data(data | {"parts": [part | {"output_channels": 8}]})
    with pytest.raises(SpecError, match="leave it out"):
        space_of(backbone, output_channels=8)
