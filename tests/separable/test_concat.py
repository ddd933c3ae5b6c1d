"""Policies that merge by concatenation: what they compute, cost and start from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sepnas import api
from sepnas.cost.counts import count_network
from sepnas.cost.memory import peak_memory_bytes
from sepnas.cost.simulator import simulate
from sepnas.errors import SpecError
from sepnas.nets.exchange import merge_tensors
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.device_totals import convolution_of, is_convolving, macs_of_device
from sepnas.plan.merges import merge_weights_dims
from sepnas.plan.shapes import FLOAT_BYTES, Shape
from sepnas.plan.steps import Merge
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, matrix_dims, stage_sides
from sepnas.separable.read import ArchitectureOptions, read_architecture
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.start import take_over
from tests.helpers_runtime import tiny_architecture, transfer

SENT = [transfer(0, 1, fraction=0.5), transfer(2, 1, "int8"), transfer(1, 0, "fp16"), transfer(0, 2)]
POINTS = [{"after": 0, "transfers": SENT}, {"after": 1, "transfers": SENT[:2]}]


def architecture_by(merge: str) -> Architecture:
    return tiny_architecture([{**point, "merge": merge} for point in POINTS], "mean", 3, depth=11)


def test_a_new_network_answers_as_if_nothing_were_sent() -> None:
    """Its matrices are 0 at first, and all of them learn."""
    torch.manual_seed(0)
    network = SeparableNetwork(architecture_by("concat"))
    silent = network.architecture.policy.model_copy(update={"points": ()})
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(network(x), network(x, silent), rtol=0, atol=0)
    network(x).square().sum().backward()
    assert all(bool(weight.grad.abs().sum() > 0) for weight in network.merges.values())


def test_a_layer_behind_it_has_weights_for_what_arrives() -> None:
    """Merge and layer are one layer that reads the concatenation of own and received channels."""
    torch.manual_seed(0)
    own, received, layer = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5), nn.Conv2d(4, 6, 3, bias=False)
    matrix = torch.randn(4, 3)
    merged = merge_tensors(Merge("convolve", ("a", "b"), "c", "w"), Shape.chw(4, 5, 5), [own, received], [matrix])
    joined = torch.cat((layer.weight, torch.einsum("omhw,mi->oihw", layer.weight, matrix)), 1)
    whole = nn.functional.conv2d(torch.cat((own, received), 1), joined)
    torch.testing.assert_close(layer(merged), whole, rtol=1e-4, atol=1e-4)


def test_its_convolutions_are_counted() -> None:
    """In multiply-accumulates, stored numbers, memory and time; the bytes are those of any merge."""
    mean, concat = architecture_by("mean"), architecture_by("concat")
    plans, counts = [build_plan(each) for each in (mean, concat)], [count_network(each) for each in (mean, concat)]
    sizes = [
        (point.after, transfer.destination, math.prod(matrix_dims(concat, point, transfer)))
        for point in concat.policy.points
        for transfer in point.transfers
    ]
    sides = [stage_sides(concat)[concat.stages.of_block[block]] for block, _, _ in sizes]
    cluster = uniform_cluster(3)
    for rank in range(3):
        weights = sum(count for _, destination, count in sizes if destination == rank)
        macs = sum(n * side**2 for (_, to, n), side in zip(sizes, sides, strict=True) if to == rank)
        assert macs_of_device(plans[1], rank) - macs_of_device(plans[0], rank) == macs
        assert count_macs(concat, rank) - count_macs(mean, rank) == macs
        grown = peak_memory_bytes(plans[1], rank) - peak_memory_bytes(plans[0], rank)
        merges, shapes = filter(is_convolving, plans[1].programs[rank]), plans[1].shapes[rank]
        stored = sum(math.prod(merge_weights_dims(each, shapes)) for each in merges)  # as wide as the widest
        assert grown == FLOAT_BYTES * stored >= FLOAT_BYTES * weights
        busy = [simulate(plan, cluster).compute_s[rank] for plan in plans]
        assert (busy[1] > busy[0]) is (macs > 0)
    assert counts[1].numbers_stored - counts[0].numbers_stored == sum(count for _, _, count in sizes)
    assert counts[1].total_bytes == counts[0].total_bytes


def test_all_messages_may_be_merged_by_another_rule() -> None:
    """``--merge`` replaces the rule of all points; an unknown one is refused with those that are allowed."""
    found = read_architecture(architecture_by("mean"), ArchitectureOptions(merge="concat"))
    assert found.policy == architecture_by("concat").policy
    assert api.describe("resnext11_2x4d", devices=2, merge="concat").parameters > 0
    with pytest.raises(SpecError, match=r"'sum': allowed are mean, weighted, concat"):
        read_architecture("resnext11_2x4d", ArchitectureOptions(devices=2, merge="sum"))


def test_a_merge_of_videos_convolves_every_place() -> None:
    """All axes behind the channels count, and a merge to which nothing came computes nothing."""
    shape = Shape((4, 2, 3, 5), "CTHW")
    step = Merge("convolve", ("own", "received"), "merged", "w")
    shapes = dict.fromkeys((*step.inputs, step.output), shape)
    assert convolution_of(step, shapes).macs == 4 * 4 * 2 * 3 * 5
    assert is_convolving(step)
    assert not is_convolving(replace(step, inputs=("own",)))


def test_a_start_gives_the_columns_of_the_channels_that_are_sent() -> None:
    """A network of another policy takes over their weights; those of channels that were not sent are 0."""
    torch.manual_seed(0)
    points = [{"after": 0, "merge": "concat", "transfers": [transfer(0, 1, fraction=share)]} for share in (0.5, 1)]
    few, all_ = (SeparableNetwork(tiny_architecture([each], "mean", 2, depth=11)) for each in points)
    [few_weight], [whole_weight] = few.merges.values(), all_.merges.values()
    nn.init.normal_(few_weight)
    take_over(all_, few, "start")
    torch.testing.assert_close(whole_weight[:, :2], few_weight, rtol=0, atol=0)
    assert not whole_weight[:, 2:].any()
    nn.init.normal_(whole_weight)
    take_over(few, all_, "start")
    torch.testing.assert_close(few_weight, whole_weight[:, :2], rtol=0, atol=0)
