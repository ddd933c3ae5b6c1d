"""Operators measured within layers: real segments in both engines, and times that are shared out."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.measure.device import measure_device
from sepnas.measure.grid import family_networks, operators_of
from sepnas.measure.in_layers import LayerChain, chains_of, share_out
from sepnas.measure.machine import installed_version
from sepnas.measure.probes import noise, write_probes
from sepnas.plan.operators import Operator
from sepnas.runtime.engines.choice import make_engine
from sepnas.separable.architecture import named_architecture
from sepnas.separable.layers import device_layers
from sepnas.spec.cluster import Cluster

NARROW = device_layers(named_architecture("resnext11_1x4d"), 0)
LAYERS = [layer.work for layer in NARROW]
WIDER = [layer.work for layer in device_layers(named_architecture("resnext11_1x8d"), 0)]


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("first", [0, 1, len(NARROW) - 1])
def test_a_chain_computes_its_layers(engine: str, first: int, tmp_path: Path) -> None:
    """A chain is layers of a network one after another, and its end values are what goes in and comes out."""
    # another network's first: the graph is shared, and must not know sizes
    other, chain = (LayerChain(tuple(layers[first : first + 3])) for layers in (WIDER, LAYERS))
    expected = assert_computes(chain, engine, tmp_path, other)
    assert NARROW[min(first + 2, len(NARROW) - 1)].output.num_values == expected.size
    assert chain.end_values == noise(chain.input_shape).size + expected.size


def assert_computes(chain: LayerChain, engine: str, folder: Path, *others: LayerChain) -> np.ndarray:
    """That an engine gives what the chain's module gives; the module's output."""
    shard = write_probes([*others, chain], folder, engine)
    x_bchw = noise(chain.input_shape)
    found = make_engine(engine, shard).engine.run(chain.name, [x_bchw])[0]
    module = chain.module().eval()
    first_word = f"{chain.name}."
    own = {
        name.removeprefix(first_word): torch.from_numpy(w)
        for name, w in shard.first.weights.items()
        if first_word in name
    }
    module.load_state_dict(own, strict=False)  # counters of training are not there
    with torch.no_grad():
        expected: np.ndarray = module(torch.from_numpy(x_bchw)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    return expected


# max-pools; ReLU6, depthwise convolutions and an addition without activation; a convolution in the head
OTHERS = [("vgg11_1x4", 1, 3), ("mobilenetv2_6x4", 3, 5), ("mobilenetv2_6x4", 17, 19)]


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize(("name", "first", "end"), OTHERS)
def test_a_chain_of_another_family_computes_its_layers(
    name: str, first: int, end: int, engine: str, tmp_path: Path
) -> None:
    """Layers of every kind are exported, pass the checks of graphs, and compute what the modules compute."""
    layers = device_layers(named_architecture(name, num_classes=5), 0)[first:end]
    chain = LayerChain(tuple(layer.work for layer in layers))
    assert_computes(chain, engine, tmp_path)
    assert chain.end_values == noise(chain.input_shape).size + layers[-1].output.num_values


@settings(deadline=None, max_examples=10)
@given(st.floats(0, 1e-4), st.floats(0, 1e-9), st.integers(0, 1 << 16))
def test_times_are_shared_out_among_operators(overhead_s: float, value_s: float, seed: int) -> None:
    """Where segments take a call, their ends and their operators, others of the same operators are told within 10 %."""
    networks = list(family_networks())[::6]
    draw = random.Random(seed)
    own_s = {
        each: (1e-6 + 2e-11 * each.macs + 3e-10 * each.values_moved) * draw.uniform(0.7, 1.4)
        for each in operators_of(networks)
    }

    def took_s(chain: LayerChain) -> float:
        return overhead_s + value_s * chain.end_values + sum(own_s[each] for each in chain.operators)

    measured = chains_of(networks)
    found, call_s, each_value_s = share_out(measured, [took_s(chain) for chain in measured])
    assert set(found) == set(own_s)
    assert min(found.values()) > 0
    for network in networks:
        for part in (network, network[:3], network[2:4], network[-3:]):
            chain = LayerChain(tuple(layer.work for layer in part))
            told_s = call_s + each_value_s * chain.end_values + sum(found[each] for each in chain.operators)
            assert told_s == pytest.approx(took_s(chain), rel=0.1)


@pytest.mark.slow
def test_a_device_is_measured_in_onnxruntime(tmp_path: Path) -> None:
    """The profile holds the operators of the networks, names engine and version, and survives its file."""
    device = measure_device("board", engine="onnxruntime", seconds=1.0, networks=[NARROW]).device
    assert device.profile is not None
    assert {Operator(*row.key) for row in device.profile.operators} == set(operators_of([NARROW]))
    machine = device.profile.machine
    assert (machine.engine, machine.engine_version) == ("onnxruntime", installed_version("onnxruntime"))
    assert Cluster.load(Cluster(devices=(device,)).save(tmp_path / "c.yaml")).devices == (device,)
