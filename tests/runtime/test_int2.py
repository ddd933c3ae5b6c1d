"""The wire format int2, four values a byte: in files, options, training, exports and on real workers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sepnas.cost.simulator import simulate
from sepnas.errors import SpecError
from sepnas.nets.scales import calibrate_scales
from sepnas.plan.shapes import Shape
from sepnas.runtime.client.session import Session
from sepnas.runtime.tensors.codec import decode, encode
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from tests.cli.test_train_command import NETWORK, said
from tests.cost.test_cost import with_devices
from tests.helpers_runtime import (
    export_tiny,
    lively_network,
    tiny_architecture,
    transfer,
    whole_logits,
    worker_processes,
)
from tests.separable.test_space import SMALL
from tests.train.test_data import make_folder


def int2_architecture() -> Architecture:
    """Three devices: whole and half messages at once and late, beside one in four bits; scales of either kind."""
    sent = [
        transfer(0, 1, "int2"),
        transfer(1, 0, "int2", lag=1, fraction=0.5),
        transfer(2, 0, "int2"),
        transfer(0, 2, "int4"),
    ]
    scales = {0: "learned", 2: "sample"}
    points = [{"after": a, "transfers": [each | {"scale": s} for each in sent]} for a, s in scales.items()]
    return tiny_architecture(points, "mean")


def test_the_first_value_lies_in_the_lowest_bits() -> None:
    """Levels 0, 3, 1, 2 and 3 are two bytes; a sample's own minimum and step stand before them."""
    x_BCHW = np.array([0.0, 3.0, 1.0, 2.0, 3.0], np.float32).reshape(1, 5, 1, 1)
    levels = bytes([0b10_01_11_00, 0b11])
    assert bytes(encode(x_BCHW, "int2")) == np.array([0, 1], "<f4").tobytes() + levels
    assert bytes(encode(x_BCHW / 2, "int2", np.float32(0.5))) == levels
    assert decode(levels, "int2", Shape.vector(5), np.float32(0.5)).ravel().tolist() == [0.0, 1.5, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("engine", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_workers_compute_what_the_network_computes(engine: str, tmp_path: Path) -> None:
    """In processes of their own, to 1e-5 relative, and the bytes on their sockets are those that the plan predicts."""
    network = lively_network(int2_architecture())
    calibrate_scales(network, torch.randn(32, 1, 8, 8))
    export_tiny(network, tmp_path / "tiny", engines=(engine,))
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8), np.float32)
    with (
        worker_processes(tmp_path / "tiny", 3, engine) as (_, hosts),
        Session(tmp_path / "tiny", hosts) as session,
    ):
        found = session.infer(images)
        counted = session.counters().payload_bytes
    whole = whole_logits(network, images)
    assert np.abs(found - whole).max() <= 1e-5 * np.abs(whole).max()
    plan = build_plan(network.architecture)
    assert counted == plan.payload_bytes(5) == simulate(plan, uniform_cluster(3), batch=5).payload_bytes


def test_two_bits_are_a_sixteenth_of_the_bytes() -> None:
    """`describe` and `simulate` count levels alone where the scales are learned."""
    for verb in ("describe", "simulate"):
        plain, learned = (
            json.loads(said(verb, *NETWORK[:3], *options, "--json"))["payload_bytes"]
            for options in ((), ("--wire", "int2", "--learned-scales"))
        )
        assert learned * 16 == plain


def test_the_terminal_trains_and_exports_it(tmp_path: Path) -> None:
    """`sepnas train --wire int2 --learned-scales` and `export`: the manifest names the format and its bytes."""
    data = ("--data", f"folder:{make_folder(tmp_path / 'images', size=8)}", "--epochs", 1)
    said("train", *NETWORK, *data, "--wire", "int2", "--learned-scales", "--out", tmp_path / "run")
    said("export", tmp_path / "run", tmp_path / "deployment")
    deployed = json.loads((tmp_path / "deployment" / "manifest.json").read_text())["plans"]["default"]
    assert {"uint8", "int2", "fp32"} == {message["wire"] for message in deployed["messages"]}
    plan = build_plan(Architecture.load(tmp_path / "run" / "architecture.json"))
    assert deployed["payload_bytes"] == plan.payload_bytes()
    assert {message.wire for message in plan.transfers() if message.scale} == {"int2"}


def test_policy_files_and_spaces_name_it(tmp_path: Path) -> None:
    """A policy is read back, a space offers it as a choice, and a name that is none is refused with all that are."""
    policy = int2_architecture().policy
    policy.save(tmp_path / "policy.yaml")
    assert TransmissionPolicy.load(tmp_path / "policy.yaml") == policy
    space = SearchSpace.from_data({**SMALL, "policy": {**SMALL["policy"], "wires": ["int4", "int2"]}})
    draw = random.Random(0).randrange
    sampled = [space.architecture_of(space.sample(draw)) for _ in range(20)]
    wires = {m.wire for each in sampled for m in build_plan(each).transfers() if m.tensor != "logits"}
    assert wires == {"int4", "int2"}
    with pytest.raises(SpecError, match="must be 'fp32', 'fp16', 'int8', 'int4' or 'int2', got 'int3'"):
        TransmissionPolicy.from_data(json.loads(policy.dumps().replace('"int2"', '"int3"')), "policy.json")


def test_a_profile_without_it_prices_it_as_int4() -> None:
    """Profiles that were measured before there was int2 stay as they are; one that has a row of it takes the row."""
    old = ExchangeCosts(convert_s=1e-6, convert_s_per_value=ConversionCosts(fp16=1e-9, int8=3e-9, int4=5e-9))
    assert "int2" not in old.model_dump(mode="json")["convert_s_per_value"]
    assert ExchangeCosts.model_validate(old.model_dump(mode="json")) == old
    measured = old.model_copy(update={"convert_s_per_value": ConversionCosts(int4=5e-9, int2=50e-9)})
    architecture = int2_architecture()
    int4 = architecture.with_policy(architecture.policy.written_in("int4"))
    int2 = architecture.with_policy(architecture.policy.written_in("int2"))

    def busy_s(network: Architecture, costs: ExchangeCosts) -> float:
        return sum(simulate(build_plan(network), with_devices(uniform_cluster(3), exchange=costs)).busy_s)

    assert busy_s(int2, old) == pytest.approx(busy_s(int4, old), rel=1e-12)
    assert busy_s(int2, measured) > busy_s(int4, measured)
