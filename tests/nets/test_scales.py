"""Learned scales of messages: calibrated, trained, exported, and the same numbers at every place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sepnas.deployment.manifest import SHARD_NAME, WEIGHTS_NAME, ShardManifest
from sepnas.deployment.serial import program_of
from sepnas.deployment.verify import file_entry
from sepnas.errors import CheckpointError, DeploymentError, PlanError, SpecError, TrainingError
from sepnas.nets.exchange import through_wire
from sepnas.nets.scales import calibrate_scales
from sepnas.nets.separable import SeparableNetwork
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.shard import load_shard
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import Transfer
from sepnas.separable.read import with_messages
from sepnas.train.checkpoint import LAST, load_network, new_network
from sepnas.train.recipe import Recipe
from sepnas.train.start import first_network
from tests.cli.test_train_command import NETWORK, error_of, said
from tests.helpers_runtime import export_tiny, lively_network, threads, tiny_architecture, transfer, whole_logits
from tests.train.test_data import make_folder
from tests.train.test_train import same_tensors, small_architecture, small_data, train

RECIPE = Recipe(epochs=2, batch_size=25, learning_rate=0.05)


def learned_pair(wire: str = "int4", fraction: float = 0.5) -> Architecture:
    """Two devices that send each other some of their channels, with steps that were learned."""
    pairs = [transfer(0, 1, wire, fraction=fraction), transfer(1, 0, wire, lag=1)]
    points = [{"after": 0, "transfers": [pair | {"scale": "learned"} for pair in pairs]}]
    return tiny_architecture(points, "mean", devices=2)


def calibrated(wire: str = "int4") -> SeparableNetwork:
    network = lively_network(learned_pair(wire))
    calibrate_scales(network, torch.randn(32, 1, 8, 8))
    return network


def small_learned(**changes: Any) -> Architecture:
    architecture = small_architecture(**changes)
    return architecture.with_policy(architecture.policy.written_in("int4", "learned"))


def test_the_step_learns_as_the_paper_says() -> None:
    """Gradients are those of arXiv 1902.08153, that of the step relative to it; clipped values pass none."""
    x = torch.tensor([[-1.0, 0.2, 0.7, 3.1, 9.0]], requires_grad=True)
    log_step = torch.tensor(0.5).log().requires_grad_()
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (through_wire(x, "int4", log_step) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert log_step.grad is not None
    assert x.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0]]
    slopes = torch.tensor([0.0, 0 - 0.4, 1 - 1.4, 6 - 6.2, 15.0])
    assert log_step.grad.item() == pytest.approx(float((weights * slopes).sum()) / (0.5 * (5 * 15) ** 0.5), rel=1e-5)


def test_calibration_finds_the_step_of_least_error() -> None:
    """No step nearby rounds what crosses better; batch norms and all other weights stay as they were."""
    network = lively_network(learned_pair(fraction=0.3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(32, 1, 8, 8)
    outputs: list[torch.Tensor] = []
    network.parts[0][0].register_forward_hook(lambda _, __, output: outputs.append(output.detach()))  # type: ignore[index]
    calibrate_scales(network, images)
    sent = outputs[0][:, :2]  # 0.3 of 4 channels, rounded up
    assert outputs[0].shape[1] == 4

    def error(step: torch.Tensor) -> float:
        return float((through_wire(sent, "int4", step.log()) - sent).square().mean())

    best = network.scale("after0_from0_int4")
    assert all(error(best) <= error(best * factor) * 1.001 for factor in (0.5, 0.8, 1.25, 2.0))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"log_scales.after0_from0_int4", "log_scales.after0_from1_int4"}


def test_an_untrained_network_is_calibrated_by_its_batch() -> None:
    """Before training the running statistics mean nothing: the batch's are used, and not kept."""
    network = first_network(small_learned(), small_data())
    assert network.training
    assert not network.stem.layer.bn.running_mean.any()
    assert 0 < float(network.scale("after0_from1_int4")) < 10


@pytest.mark.parametrize("wire", ["int8", "int4"])
def test_devices_exchange_levels_alone(wire: str, tmp_path: Path) -> None:
    """Over real sockets: the answers are the whole network's, no message has a header, both ends hold the step."""
    network = calibrated(wire)
    export_tiny(network, tmp_path / "tiny")
    images = np.random.default_rng(0).standard_normal((3, 1, 8, 8), np.float32)
    with threads(tmp_path / "tiny") as hosts, Session(tmp_path / "tiny", hosts) as session:
        found = session.infer(images)
        sent = session.counters().payload_bytes
    np.testing.assert_allclose(found, whole_logits(network, images), rtol=1e-4, atol=1e-4)
    messages = build_plan(network.architecture).transfers()
    levels = {"fp32": 1 / 4, "int8": 1, "int4": 2}  # of a byte
    due = sum(math.ceil(message.shape.num_values / levels[message.wire]) for message in messages)
    assert sent == 3 * due == build_plan(network.architecture).payload_bytes(3)
    for rank in range(2):
        weights = load_file(tmp_path / "tiny" / f"device{rank}" / WEIGHTS_NAME)
        for name in network.log_scales:
            assert weights[name] == network.scale(name).numpy()


def test_the_scales_are_trained_and_come_back(tmp_path: Path) -> None:
    """Training moves them, they are in the checkpoints, and a cut run ends with the same bits."""
    data = small_data()
    first = first_network(small_learned(), data)
    begun = float(first.scale("after0_from1_int4"))
    train(tmp_path / "whole", RECIPE, network=first, data=data)
    train(tmp_path / "cut", RECIPE, network=first_network(small_learned(), data), data=data, stop_after_s=0)
    train(tmp_path / "cut", RECIPE, network=first_network(small_learned(), data), data=data, resume=True)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "cut" / LAST)
    assert float(load_network(tmp_path / "whole").scale("after0_from1_int4")) != begun


def test_scales_do_not_decay(tmp_path: Path) -> None:
    """A step without gradient stays as it is under any decay, with torch's optimizer and with timm's."""
    for optimizer in ("sgd", "sgdw"):
        recipe = Recipe(epochs=1, batch_size=25, learning_rate=0.1, weight_decay=0.5, optimizer=optimizer)
        network = first_network(small_learned(), small_data())
        unused = network.log_scales["after0_from1_int4"]
        unused.register_hook(torch.zeros_like)
        before = unused.detach().clone()
        train(tmp_path / optimizer, recipe, network=network)
        assert torch.equal(unused.detach(), before)


def test_training_goes_on_from_a_trained_network(tmp_path: Path) -> None:
    """The weights are the start's under another policy; scales that it has stay, others are calibrated."""
    start = new_network(small_architecture(), 5).eval()
    network = first_network(small_learned(), small_data(), 0, start)
    for name, value in start.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    with torch.no_grad():
        network.log_scales["after0_from1_int4"].fill_(0.25)
    again = first_network(small_learned(), small_data(), 0, network)
    assert again.log_scales["after0_from1_int4"].item() == 0.25
    for changes, field in (({"stem_stride": 2}, "stem_stride"), ({"num_classes": 4}, "num_classes")):
        data = small_data(classes=changes.get("num_classes", 3))
        with pytest.raises(TrainingError, match=f"--start RUN: the trained network has `{field}`"):
            first_network(small_architecture(**changes), data, 0, start, "--start RUN")
    mean = small_architecture(policy={"points": [], "readout": {"kind": "mean"}})
    with pytest.raises(TrainingError, match="no classifier on device 1"):
        first_network(mean, small_data(), 0, start)


def test_a_start_belongs_to_the_run(tmp_path: Path) -> None:
    """Who resumes from other weights is told so."""
    train(tmp_path, RECIPE, network=first_network(small_learned(), small_data()), start="a", stop_after_s=0)
    with pytest.raises(CheckpointError, match="`start` is 'a' there, 'b' here"):
        train(tmp_path, RECIPE, network=first_network(small_learned(), small_data()), start="b", resume=True)


@pytest.mark.slow
def test_the_terminal_writes_messages_in_four_bits(tmp_path: Path) -> None:
    """Train, train on with learned steps of four bits, export: an eighth of the bytes; `--wire` alone keeps scales."""
    data = ("--data", f"folder:{make_folder(tmp_path / 'images', size=8)}", "--epochs", 1)
    said("train", *NETWORK, *data, "--out", tmp_path / "fp32")
    architecture = tmp_path / "fp32" / "architecture.json"
    options = ("--start", tmp_path / "fp32", "--wire", "int4", "--learned-scales", "--learning-rate", 0.02)
    said("train", architecture, *data, "--threads", 1, "--out", tmp_path / "int4", *options)
    said("export", tmp_path / "int4", tmp_path / "deployment")
    found = Architecture.load(tmp_path / "int4" / "architecture.json")
    assert {t.scale for point in found.policy.points for t in point.transfers} == {"learned"}
    whole = build_plan(Architecture.load(architecture))
    logits = sum(4 * m.shape.num_values for m in whole.transfers() if m.tensor == "logits")
    assert build_plan(found).payload_bytes() - logits == (whole.payload_bytes() - logits) / 8
    scales = [name for name in load_shard(tmp_path / "deployment" / "device0").first.weights if name.endswith("int4")]
    assert scales
    assert with_messages(found, "int8", None).policy.learned_scales()
    assert not with_messages(found, "int8", False).policy.learned_scales()


def test_the_bytes_are_told_before_any_training() -> None:
    """`describe` and `simulate` take the same options, and count levels alone."""
    plain = json.loads(said("describe", *NETWORK[:3], "--json"))["payload_bytes"]
    learned = ("--wire", "int4", "--learned-scales", "--json")
    assert json.loads(said("describe", *NETWORK[:3], *learned))["payload_bytes"] == plain / 8
    assert json.loads(said("simulate", *NETWORK[:3], *learned))["payload_bytes"] == plain / 8


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    """Unknown formats, scales of messages that have no levels, a start that is none."""
    out = ("--out", tmp_path / "run")
    assert "--wire 'int3': allowed are fp32, fp16, int8, int4" in error_of(
        SpecError, "train", *NETWORK, *out, "--wire", "int3"
    )
    assert "add --wire int8, --wire int4 or" in error_of(SpecError, "train", *NETWORK, *out, "--learned-scales")
    alone = ("train", "resnext11_2x4d", "-n", 1, *out, "--wire", "int8", "--learned-scales")
    assert "sends nothing but logits" in error_of(SpecError, *alone)
    assert "architecture" in error_of(CheckpointError, "train", *NETWORK, *out, "--start", tmp_path)
    with pytest.raises(ValueError, match="only int8, int4 and int2 have"):
        Transfer(source=0, destination=1, wire="fp16", scale="learned")


def test_files_from_before_scales_are_unchanged() -> None:
    """Transfers and messages without learned scales are written as ever."""
    assert "scale" not in json.dumps(small_architecture().to_data())
    assert "scale" in json.dumps(small_learned().to_data())
    assert Architecture.from_data(small_learned().to_data(), "again") == small_learned()


@pytest.mark.parametrize("spoilt", [np.float32(0), np.float32(np.nan), np.ones(2, np.float32), np.int32(1), None])
def test_a_step_that_is_none_is_refused(spoilt: Any, tmp_path: Path) -> None:
    """A device does not start with a step that is missing, zero, no number or several."""
    export_tiny(calibrated(), tmp_path / "tiny")
    folder = tmp_path / "tiny" / "device0"
    weights = load_file(folder / WEIGHTS_NAME)
    name = "after0_from1_int4"
    weights |= {} if spoilt is None else {name: np.asarray(spoilt)}
    if spoilt is None:
        del weights[name]
    save_file(weights, folder / WEIGHTS_NAME)
    shard = ShardManifest.load(folder / SHARD_NAME)
    files = shard.files | {WEIGHTS_NAME: file_entry(folder / WEIGHTS_NAME)}
    (folder / SHARD_NAME).unlink()
    shard.model_copy(update={"files": files}).seal().save(folder / SHARD_NAME)
    (tmp_path / "tiny" / "manifest.json").unlink()
    with pytest.raises(DeploymentError, match=name):
        load_shard(folder)


def test_both_ends_must_mean_the_same_scale(tmp_path: Path) -> None:
    """A program that sends with another scale than its message is listed with is no program."""
    export_tiny(calibrated(), tmp_path / "tiny")
    shard = ShardManifest.load(tmp_path / "tiny" / "device0" / SHARD_NAME)
    data = shard.to_data()
    for step in data["plans"]["default"]["program"]:
        step.pop("scale", None)
    with pytest.raises(PlanError, match="is listed with scale 'after0_from0_int4', but sent with None"):
        program_of(ShardManifest.from_data(data, "shard"), "default")
