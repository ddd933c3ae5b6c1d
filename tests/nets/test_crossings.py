"""Operands that another device sends: which they are, and that a network in one process rounds them as devices do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sepnas.errors import SpecError
from sepnas.nets.crossings import Rounding, crossings_of
from sepnas.nets.trainable import TrainableGraph, folder_crossings, load_trainable
from sepnas.partition.graph import Graph
from sepnas.partition.lowering import lower
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.registry import partition
from sepnas.plan.document import load_plan, save_plan
from sepnas.plan.plan import Plan
from sepnas.plan.wire import UNCONVERTED, WIRE_FORMATS
from sepnas.testing.graphs import Builder
from tests.separation.networks import MAKERS, Separated, error, small

ROUNDED = tuple(wire for wire in WIRE_FORMATS if wire != UNCONVERTED)
SHARES = (1, 2, 1)


def trainable(found: Separated) -> TrainableGraph:
    """The network whose messages are rounded as its plan says."""
    crossings = crossings_of(found.made.graph, found.made.plan())
    return TrainableGraph(found.made.graph, found.network.weights_by_name, crossings).eval()


def check_rounded(found: Separated) -> None:
    with torch.no_grad():
        rounded = trainable(found)(found.of.x)
    assert error(rounded, found.planned()) <= 1e-6
    assert error(rounded, found.answers()) > 1e-5


@pytest.mark.parametrize("name", MAKERS)
def test_a_rounded_network_computes_what_its_devices_compute(name: str) -> None:
    """In int8, the answer of the plan's devices to 1e-6, which differs from that without rounding."""
    check_rounded(small(name).separated(SHARES, 0.7 if name != "segmented" else None, "int8"))


@pytest.mark.parametrize("wire", ROUNDED)
def test_each_format_is_rounded(wire: str) -> None:
    """As its devices do it, with mixtures and biases of measured channels too."""
    check_rounded(small("residual").separated(SHARES, 0.3, wire, small("residual").measured))


def test_gradients_pass_through_messages() -> None:
    """Straight through: with the same values on the way, they are those of the network that is not rounded."""
    found = small("residual").separated(SHARES, 0.5, "int8")
    rounded = trainable(found)
    plain = TrainableGraph(found.made.graph, found.network.weights_by_name).eval()
    gradients = []
    for network in (rounded, plain):
        network(small("residual").x).sum().backward()
        gradients.append({name: x.grad for name, x in network.named_parameters()})
    for name, wanted in gradients[1].items():
        got = gradients[0][name]
        assert got is not None
        assert wanted is not None
        assert bool(got.any()) == bool(wanted.any()), name
        assert float((got - wanted).norm()) <= 0.1 * float(wanted.norm()), name


@pytest.mark.parametrize("name", ["residual", "dense", "squeezed"])
def test_crossings_are_the_operands_of_other_devices(name: str) -> None:
    """Each operand whose maker lies on another device, in the plan's format; in fp32 nothing is rounded."""
    found = small(name).separated(SHARES, 0.5, "int8")
    graph, device_of = found.made.graph, {n: layout.devices[0] for n, layout in found.made.layouts.items()}
    wanted = {
        (node.name, role)
        for node in graph.nodes
        for role, tensor in node.inputs.items()
        if tensor in graph.makers and device_of[graph.makers[tensor].name] != device_of[node.name]
    }
    assert crossings_of(graph, found.made.plan()) == dict.fromkeys(wanted, Rounding("int8"))
    assert len(wanted) >= len(found.separation.crossings)
    assert not crossings_of(graph, replace(found.made, wires={}).plan())


def test_another_plan_is_refused() -> None:
    """That of another network, and one whose devices share a layer."""
    of = small("chain")
    graph = of.separated(SHARES, 0.5, "int8").made.graph
    with pytest.raises(SpecError, match=r"no device computes 'conv0@2'; it is another network's"):
        crossings_of(graph, small("dense").separated((1, 1)).made.plan())
    with pytest.raises(SpecError, match=r"plan of network 'chain': '\w+' is split over several devices"):
        crossings_of(of.graph, partition(of.graph, "rows", [1, 1]))


def test_the_plan_of_another_separation_is_refused() -> None:
    """Of the same network, with other messages, further ones, or further operators; each is named."""
    first, other = (small("residual").separated((1, 2, 1), 0.5, wire) for wire in ("int8", "fp32"))
    with pytest.raises(SpecError, match="another network's"):
        crossings_of(first.made.graph, other.made.plan())
    half, silent = (small("residual").separated((1, 1), share).made for share in (0.5, 0))
    for graph, plan, message in (
        (half.graph, silent.plan(), r"no device computes '[\w.@]+\.sent@\d'"),
        (silent.graph, half.plan(), r"device \d computes '[\w.@]+', which the graph does not have"),
    ):
        with pytest.raises(SpecError, match=rf"plan of network 'chain': {message}; it is another network's"):
            crossings_of(graph, plan)


def added(other: str) -> tuple[Graph, Plan]:
    """A sum on device 0, of a layer there and of the layer or its ReLU on device 1, and of the sigmoid of that."""
    made = Builder(3, 4, 4)
    first = made.conv(4, 1)
    second = made.then("relu")
    third = made.then("sigmoid")
    made.add("add", {"self": first, "other": {"layer": first, "relu": second}[other]})
    made.plus(third)
    graph = made.graph()
    layouts = {
        n.name: Layout.on(int(n.operator in ("relu", "sigmoid")), graph.tensors[n.outputs[0]].dims) for n in graph.nodes
    }
    return graph, lower(graph, layouts, 2)


def test_messages_are_those_that_the_graph_needs() -> None:
    """A plan that lacks one is refused, and so is one with a message that nothing takes; both name the tensor."""
    [(plain, plan_of_plain), (summed, plan_of_summed)] = added("layer"), added("relu")
    assert not crossings_of(plain, plan_of_plain)
    assert not crossings_of(summed, plan_of_summed)
    with pytest.raises(SpecError, match="device 0 is not sent 'relu1', which its 'add3' takes; it is another"):
        crossings_of(summed, plan_of_plain)
    with pytest.raises(SpecError, match="device 0 is sent 'relu1', which none of its operators takes; it is another"):
        crossings_of(plain, plan_of_summed)


def test_a_folder_says_what_is_rounded(tmp_path: Path) -> None:
    """A separated network's folder by its plan, which must be there; another network's folder not at all."""
    from tests.importing.test_separate import imported

    found = small("chain").separated(SHARES, 0.5, "int8")
    folder = imported(small("chain"), tmp_path / "chain")
    assert not folder_crossings(small("chain").graph, folder)
    assert not load_trainable(folder).crossings
    separated = tmp_path / "separated"
    separated.mkdir()
    found.separation.save(separated / "separation.json")
    with pytest.raises(SpecError, match=r"plan\.json"):
        folder_crossings(found.made.graph, separated)
    save_plan(found.made.plan(), separated / "plan.json")
    assert load_plan(separated / "plan.json") == found.made.plan()
    assert folder_crossings(found.made.graph, separated) == crossings_of(found.made.graph, found.made.plan())
