"""Which channels belong together: what the operators of small networks of each kind tie to each other."""

from __future__ import annotations

import pytest

from sepnas.errors import PlanError
from sepnas.separation.atoms import READ_OUT, Atoms
from sepnas.separation.channels import HowComputed
from sepnas.separation.spaces import groupable, spaces_of
from tests.separation.networks import MAKERS, atoms, small


def sizes(name: str) -> list[int]:
    return [len(space.atoms) for space in spaces_of(small(name).channels)]


def test_a_layer_that_mixes_begins_new_channels() -> None:
    """Each layer of a chain has a space of its own, and the class scores lie on the read-out device."""
    assert sizes("chain") == [8, 12, 10, 16]
    assert small("chain").channels.is_read_out(small("chain").graph.outputs[0].tensor)


def test_a_residual_addition_ties_channels() -> None:
    """The layers whose outputs are added in turn share one space; those inside the blocks have their own."""
    assert sizes("residual") == [24, 24, 24]


def test_depthwise_layers_pooling_and_reshapes_keep_channels() -> None:
    """A flattened map has the channels of the map; a depthwise layer with two outputs a channel keeps both with it."""
    chain, separable = small("chain"), small("separable")
    flat = next(node for node in chain.graph.nodes if node.operator == "reshape")
    labels = chain.channels.labels(flat.outputs[0])
    assert (chain.channels.labels(flat.inputs["self"]) == labels.reshape(10, 16).T).all()
    assert sizes("separable") == [8, 12, 12]
    [doubled] = [n for n in separable.graph.nodes if separable.graph.tensors[n.outputs[0]].dims[1] == 24][:1]
    assert atoms(separable.channels.labels(doubled.outputs[0])) == 12


def test_the_channels_of_a_group_stay_together() -> None:
    """A convolution of four groups has four atoms, which its inputs and a group norm share."""
    assert sizes("grouped") == [12, 4]


def test_a_gate_ties_each_channel_to_its_scale() -> None:
    """Squeeze and excite: the inner layer has a space, the outer one that of the map which it scales."""
    assert sizes("squeezed") == [10, 4, 10, 4]


def test_joined_channels_keep_their_places() -> None:
    """What is joined along channels has the channels of all operands, and ties none of them to each other."""
    dense = small("dense")
    joined = [node for node in dense.graph.nodes if node.operator == "cat"]
    assert [atoms(dense.channels.labels(node.outputs[0])) for node in joined] == [11, 16, 21]
    assert sizes("dense") == [6, 5, 5, 5]


def test_shuffled_channels_are_a_view() -> None:
    """A reshape, a permutation and a reshape back compute nothing: channels lie in another order, and none is tied."""
    shuffled = small("shuffled")
    views = [node for node in shuffled.graph.nodes if shuffled.channels.ways[node.name] is HowComputed.VIEW]
    before, after = (shuffled.channels.labels(name) for name in (views[0].inputs["self"], views[0].outputs[0]))
    base = shuffled.channels.views[views[0].name][0]
    assert (after == shuffled.channels.labels(base).reshape(2, 6).T.reshape(-1)).all()
    assert len(before) == len(after) == 12
    assert sizes("shuffled") == [12, 6, 6]


def test_what_mixes_in_another_way_lies_on_the_read_out_device() -> None:
    """A softmax over channels is computed whole by one device; the layer after it begins new channels."""
    attentive = small("attentive")
    ways = {node.operator: attentive.channels.ways[node.name] for node in attentive.graph.nodes}
    assert ways["softmax"] is HowComputed.READ_OUT
    assert ways["conv"] is HowComputed.MIXING
    assert sizes("attentive") == [8, 8]


@pytest.mark.parametrize("name", MAKERS)
def test_each_operator_is_computed_in_some_way(name: str) -> None:
    """Each node has a way, and each tensor that a node makes has channels."""
    found = small(name)
    assert found.channels.ways.keys() == {node.name for node in found.graph.nodes}
    assert {*found.channels.tensors} == {*found.graph.inputs, *(o for n in found.graph.nodes for o in n.outputs)}


def test_too_few_channels_are_refused_with_the_largest_layer() -> None:
    """More devices than any layer has channels is an error that names the layer with most."""
    with pytest.raises(PlanError, match=r"too few channels for 17 devices: layer 'linear\d+' has most, 16"):
        groupable(small("chain").channels, 17)


def test_united_atoms_have_one_number() -> None:
    """Uniting is transitive, the read-out device's number stands for all that is united with it."""
    found = Atoms()
    labels = found.new(4)
    found.unite(labels[:2])
    found.unite(labels[1:3])
    assert found.resolved(labels).tolist() == [1, 1, 1, 4]
    found.unite((labels[2], READ_OUT))
    assert found.resolved(labels).tolist() == [0, 0, 0, 4]
