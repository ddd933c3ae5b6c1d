"""Groups of channels: importances, sizes by shares, and groups that are hidden in the weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sepnas.errors import SpecError
from sepnas.nets.channel_statistics import measure_statistics
from sepnas.nets.separated import arrays_of
from sepnas.separation.follow import channels_of
from sepnas.separation.grouping import group, slots
from sepnas.separation.importance import importance_of
from sepnas.separation.spaces import groupable
from sepnas.separation.statistics import ChannelStatistics, Statistics
from sepnas.testing.graphs import Builder
from tests.separation.networks import MAKERS, small


def hidden(groups: int, seed: int = 0) -> tuple[Builder, int]:
    """A chain whose weights connect channels of hidden groups alone, in a random order; and its number of layers."""
    torch.manual_seed(seed)
    made, size, count = Builder(3, 6, 6), 4, 4
    made.conv(groups * size, 1)
    of = torch.randperm(groups * size) % groups
    for _ in range(count):
        made.conv(groups * size, 3, padding=(1, 1))
        after = torch.randperm(groups * size) % groups
        name = made.nodes[-1].inputs["weight"]
        made.weights[name] *= (after[:, None] == of[None, :])[:, :, None, None]
        of = after
        made.then("relu")
    made.head(3)
    return made, count


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_hidden_groups_are_found(groups: int) -> None:
    """Where the weights fall into groups, no importance lies between the groups that are found."""
    made, _ = hidden(groups)
    channels = channels_of(made.graph())
    importance = importance_of(channels, arrays_of(made.weights))
    found = group(channels, groupable(channels, groups), importance, [1] * groups)
    assert found.within == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["chain", "residual", "dense", "separable"])
def test_groups_are_better_than_channels_in_order(name: str) -> None:
    """More importance lies within groups than if channels were given out in order, and as much for the same seed."""
    of = small(name)
    spaces = groupable(of.channels, 3)
    found = group(of.channels, spaces, of.importance, (1, 1, 1), seed=5)
    again = group(of.channels, spaces, of.importance, (1, 1, 1), seed=5)
    assert found.within > 0.4
    assert all((a == b).all() for a, b in zip(found.devices, again.devices, strict=True))


def test_uneven_devices_get_uneven_groups() -> None:
    """Each space is dealt out by shares: three quarters of its channels to the device with three quarters."""
    of = small("residual")
    found = group(of.channels, groupable(of.channels, 2), of.importance, (3, 1))
    assert [np.bincount(each).tolist() for each in found.devices] == [[18, 6]] * 3


@given(st.integers(1, 300), st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_slots_are_all_channels_by_shares(count: int, shares: list[float]) -> None:
    """Each device has at least one channel, together they have all, and a larger share gets no fewer."""
    count += len(shares)
    found = slots(count, shares)
    assert sum(found) == count
    assert min(found) >= 1
    order = np.argsort(shares)
    assert all(found[a] <= found[b] for a, b in pairwise(order) if shares[a] < shares[b])


@pytest.mark.parametrize("name", MAKERS)
def test_the_importance_of_each_layer_adds_up_to_one(name: str) -> None:
    """And that of each output to its share, if nothing was measured."""
    for matrix in small(name).importance.values():
        assert matrix.sum(1) == pytest.approx(np.full(len(matrix), 1 / len(matrix)), rel=1e-4)


def test_measured_importance_is_variance_times_cost() -> None:
    """Squared weights, summed over the kernel, times the input's variance and the cost of an error in the output."""
    of = small("chain")
    layer = list(of.channels.mixing.values())[1]
    variances, costs = np.linspace(0, 2, 8), np.linspace(1, 3, 12)
    measured = Statistics(
        {layer.operand: ChannelStatistics(np.ones(8), np.diag(variances) + 0.1 - 0.1 * np.eye(8))},
        {layer.node.name: costs},
    )
    found = importance_of(of.channels, of.arrays, measured)[layer.node.name]
    weight = of.weights[layer.node.inputs[layer.weight]].numpy()
    assert found == pytest.approx(np.square(weight).sum((2, 3)) * variances * costs[:, None], rel=1e-5)


def test_a_layer_that_was_not_measured_counts_as_one() -> None:
    """Where images say nothing of a layer, its importances add up to 1 as without images."""
    of = small("chain")
    first, second = list(of.channels.mixing)[:2]
    measured = Statistics({}, {first: np.ones(8)})
    found = importance_of(of.channels, of.arrays, measured)
    assert (found[second] == of.importance[second]).all()
    assert (found[first] != of.importance[first]).all()


def test_a_channel_without_activation_has_no_importance() -> None:
    """An input channel that is always the same brings nothing, whatever its weights are."""
    torch.manual_seed(0)
    made = Builder(2, 4, 4)
    made.conv(6, 1)
    made.then("relu")
    made.weights[made.nodes[0].inputs["bias"]][2] = -1e6
    made.conv(4, 1)
    made.head(2)
    channels = channels_of(made.graph())
    measured = measure_statistics(channels, made.weights, [(torch.randn(1, 2, 4, 4),)])
    found = importance_of(channels, arrays_of(made.weights), measured)
    second = found[list(channels.mixing)[1]]
    assert (second[:, 2] == 0).all()
    assert (np.delete(second, 2, 1) > 0).any()


def test_a_missing_weight_and_a_bad_share_are_refused() -> None:
    """Each is named."""
    of = small("chain")
    with pytest.raises(SpecError, match=r"tensor 'w0' of layer 'conv0' is missing"):
        importance_of(of.channels, {})
    with pytest.raises(SpecError, match=r"`shares` must be a positive number for each device, got \[1, 0\]"):
        group(of.channels, groupable(of.channels, 2), of.importance, [1, 0])
