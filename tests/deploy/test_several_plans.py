"""What an export of several plans writes, what it refuses, and what is checked when a device reads it."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from sepnas.deployment.manifest import SHARD_NAME, WEIGHTS_NAME, Manifest, ShardManifest
from sepnas.deployment.plans import overlay_file, plan_file
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.summary import plans_of
from sepnas.deployment.verify import file_entry, load_manifest, verify_deployment
from sepnas.errors import DeploymentError, SpecError
from sepnas.measure.deployed_network import deployed_network
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.document import load_plan, save_plan
from sepnas.plan.liveness import prune
from sepnas.plan.steps import Send, Step
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.onnx_engine import Int8OnnxEngine
from sepnas.runtime.engines.shard import load_shard
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from tests.helpers_plans import FEW, NAMES, SILENT, export_plans, network_under, policies, training_images
from tests.helpers_runtime import export_tiny, lively_network, threads, tiny_architecture, transfer

NOTHING, ZEROS = TransmissionPolicy(), torch.zeros(1, 1, 8, 8)
OVERLAY = f"device0/{overlay_file(FEW)}"


@pytest.fixture(scope="module")
def several(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` under three plans, for torch; not to be changed."""
    folder = tmp_path_factory.mktemp("several") / "deployment"
    export_plans(network, folder, ("torch",))
    return folder


@pytest.fixture
def deployment(several: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(several, tmp_path / "deployment")


def test_weights_are_stored_once_and_plans_add_statistics(several: Path, network: SeparableNetwork) -> None:
    """A further plan's file holds batch-norm statistics and message scales, and no weight that is trained."""
    trained = {name for name, _ in network.named_parameters()}
    for rank in range(2):
        shared = load_file(several / f"device{rank}" / WEIGHTS_NAME)
        for name in (FEW, SILENT):
            path = several / f"device{rank}" / overlay_file(name)
            if not path.exists():
                continue
            own = load_file(path)
            assert not own.keys() & trained
            assert {key.rpartition(".")[2] for key in own} == {"running_mean", "running_var"}
            assert all(not np.array_equal(own[key], shared[key]) for key in own)
    assert (several / OVERLAY).exists()
    assert not (several / "device0" / overlay_file("default")).exists()


def test_equal_graphs_are_one_file_and_equal_segments_one_entry(several: Path) -> None:
    """Graphs that plans share are written once; an engine opens a segment once for each set of its tensors."""
    shard = load_shard(several / "device0")
    files = [path.read_bytes() for path in (several / "device0/segments").iterdir()]
    assert len(files) == len(set(files))
    heads = {name: plan.keys for name, plan in shard.plans.items()}
    assert len({key for keys in heads.values() for key in keys.values()}) == len(shard.segments)
    shared = shard.plans["default"].weights
    for name, plan in shard.plans.items():
        for key, tensor in plan.weights.items():
            if not key.endswith(("running_mean", "running_var")) and key in shared:
                assert tensor is shared[key], name  # one array in memory


def test_a_plan_is_no_other_deployment(several: Path, network: SeparableNetwork, tmp_path: Path) -> None:
    """The id is that of the network and its weights; a plan's digest changes with its steps or its statistics."""
    export_tiny(network, tmp_path / "one")
    one, three = load_manifest(tmp_path / "one"), load_manifest(several)
    assert one.deployment_id == three.deployment_id
    assert one.plan().digest == three.plan().digest
    assert len({plan.digest for plan in three.plans.values()}) == 3
    assert list(three.plans) == list(NAMES)
    assert three.default_plan == "default"
    other = training_images(network) + 1
    export_tiny(network, tmp_path / "other", plans={FEW: policies()[FEW]}, statistics_NCHW=other)
    assert load_manifest(tmp_path / "other").plan(FEW).digest != three.plan(FEW).digest


def test_the_network_is_not_changed_by_an_export(network: SeparableNetwork, tmp_path: Path) -> None:
    """Statistics of further plans are measured on a copy."""
    before = copy.deepcopy(network.state_dict())
    export_plans(network, tmp_path / "deployment", ("torch",))
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_plans_are_described(several: Path) -> None:
    """Bytes, transfers and devices of each plan, the default one first."""
    found = plans_of(load_manifest(several))
    assert [each.name for each in found] == list(NAMES)
    assert [each.is_default for each in found] == [True, False, False]
    assert found[2].payload_bytes == found[2].num_transfers == 0
    assert found[2].devices_used == [0]
    assert found[0].own_bytes == 0 < found[1].own_bytes
    for each in found:
        assert deployed_plan(several, each.name).payload_bytes() == each.payload_bytes


def test_a_plan_that_was_changed_is_refused(several: Path, tmp_path: Path) -> None:
    """Predictions are not made from a plan that the devices do not have."""
    changed = shutil.copytree(several, tmp_path / "d")
    save_plan(prune(deployed_plan(several, SILENT)), changed / "plans" / f"{FEW}.json")
    assert deployed_plan(changed) == deployed_plan(several)
    with pytest.raises(DeploymentError, match=rf"plans/{FEW}.json: has \d+ bytes, the manifest says"):
        deployed_plan(changed, FEW)


def test_a_plan_file_and_learned_scales_are_exported(network: SeparableNetwork, tmp_path: Path) -> None:
    """A plan from a file gets statistics, too; message scales that were not trained are calibrated."""
    few = tiny_architecture([{"after": 1, "transfers": [transfer(1, 0)]}], devices=2, depth=11)
    plan = load_plan(save_plan(build_plan(few), tmp_path / "plan.json"))
    learned = policies()[FEW].written_in("int4", "learned")
    given = {"file": plan, "learned": learned}
    export_tiny(network, tmp_path / "d", plans=given, statistics_NCHW=training_images(network))
    assert deployed_plan(tmp_path / "d", "file") == plan
    scales = [name for name in load_file(tmp_path / "d/device0" / WEIGHTS_NAME) if name.endswith("int4")]
    assert scales == ["after1_from1_int4"]
    x_BCHW = training_images(network, 3)
    with threads(tmp_path / "d") as hosts, Session(tmp_path / "d", hosts) as session:
        for name in given:
            wanted = deployed_network(network, tmp_path / "d", name)(x_BCHW).numpy()
            np.testing.assert_allclose(session.infer(x_BCHW.numpy(), plan=name), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_int8_is_calibrated_for_each_plan(network: SeparableNetwork, tmp_path: Path) -> None:
    """Graphs in 8 bits are those of the plan; the devices answer as the quantised network under it."""
    engines = ("torch", "onnxruntime", "onnxruntime-int8")
    export_plans(network, tmp_path / "d", engines, calibration_NCHW=training_images(network))
    x_BCHW = training_images(network, 3)
    with threads(tmp_path / "d", engine=Int8OnnxEngine) as hosts, Session(tmp_path / "d", hosts) as session:
        for name in NAMES:
            wanted = deployed_network(network, tmp_path / "d", name, "onnxruntime-int8")(x_BCHW).numpy()
            found = session.infer(x_BCHW.numpy(), plan=name)
            np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
            with torch.inference_mode():
                exact = network_under(network, name)(x_BCHW).numpy()
            assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


# -- refused


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../up", "a plan's name has 1 to 64 letters"),
        ("", "a plan's name has 1 to 64 letters"),
        (".hidden", "begins with a letter"),
        ("a" * 65, "a plan's name has 1 to 64 letters"),
        ("a b", "a plan's name has 1 to 64 letters"),
        ("é", "a plan's name has 1 to 64 letters"),
        ("a\n", "a plan's name has 1 to 64 letters"),
        ("Default", "is reserved for the run's own plan"),
    ],
)
def test_names_that_are_no_file_names_are_refused(network: SeparableNetwork, tmp_path: Path, name, says) -> None:
    """A plan's name is part of file names; nothing is written for a bad one."""
    with pytest.raises(SpecError, match=says):
        export_tiny(
            network, tmp_path / "d", plans={name: TransmissionPolicy()}, statistics_NCHW=torch.zeros(1, 1, 8, 8)
        )
    assert not (tmp_path / "d").exists()


def test_too_many_and_similar_names_are_refused(network: SeparableNetwork, tmp_path: Path) -> None:
    """At most 16 plans, and none that another file system would take for another."""
    many = {f"plan{index}": NOTHING for index in range(16)}
    for plans, says in (
        (many, "at most 16 plans"),
        (dict.fromkeys(("a", "A"), TransmissionPolicy()), "is used twice"),
    ):
        with pytest.raises(SpecError, match=says):
            export_tiny(network, tmp_path / "d", plans=plans, statistics_NCHW=torch.zeros(1, 1, 8, 8))


def test_untrained_weights_are_refused(network: SeparableNetwork, tmp_path: Path) -> None:
    """A mean read-out, learned merges and images that are missing are refused with what can be done."""
    images = training_images(network)
    mean = tiny_architecture([], "mean", devices=2, depth=11).policy
    weighted = [{"after": 1, "merge": "weighted", "transfers": [transfer(1, 0)]}]
    learned = tiny_architecture(weighted, devices=2, depth=11).policy
    for policy, says in (
        (mean, r"needs the classifier of device 1, which was not trained; take a policy whose `readout`"),
        (
            learned,
            r"needs the learned merge weight 'after1_from1_to0', which was not trained; take a policy that merges",
        ),
    ):
        with pytest.raises(DeploymentError, match=f"plan 'x' does not fit the trained network: it {says}"):
            export_tiny(network, tmp_path / "d", plans={"x": policy}, statistics_NCHW=images)
    with pytest.raises(SpecError, match="plan 'x' needs training images"):
        export_tiny(network, tmp_path / "d", plans={"x": policies()[FEW]})
    with pytest.raises(SpecError, match=r"`statistics_NCHW`, normalised images of shape \(N, 1, 8, 8\)"):
        export_tiny(network, tmp_path / "d", plans={"x": policies()[FEW]}, statistics_NCHW=images[:, :, :4])
    assert not (tmp_path / "d").exists()


def test_a_policy_may_send_fewer_channels_than_the_trained_one(tmp_path: Path) -> None:
    """The matrices of its merges are the columns of these channels; more channels than were trained are refused."""
    few, whole = (
        tiny_architecture([{"after": 1, "merge": "concat", "transfers": [transfer(1, 0, fraction=share)]}], devices=2)
        for share in (0.5, 1)
    )
    network, narrow = lively_network(whole), lively_network(few)
    images = training_images(network)
    export_tiny(network, tmp_path / "d", plans={"few": few.policy}, statistics_NCHW=images)
    [matrix] = network.merge_weights(0).values()
    stored = load_shard(tmp_path / "d" / "device0").plans["few"].weights["merge1"]
    np.testing.assert_array_equal(stored, matrix[:, :, : stored.shape[2]])
    assert stored.shape[2] < matrix.shape[2]
    with pytest.raises(DeploymentError, match=r"'after1_from1_to0_matrix', which was not trained for as many channels"):
        export_tiny(narrow, tmp_path / "e", plans={"all": whole.policy}, statistics_NCHW=images)


# -- damaged


def test_a_damaged_overlay_is_named(deployment: Path) -> None:
    """A changed, missing or unlisted file of a plan's tensors is refused by its name."""
    path = deployment / OVERLAY
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DeploymentError, match=rf"weights\.{FEW}\.safetensors: sha256 is"):
        load_shard(deployment / "device0")
    path.unlink()
    with pytest.raises(DeploymentError, match=rf"weights\.{FEW}\.safetensors: is missing"):
        verify_deployment(deployment)


def seal(device: Path, **changes: object) -> None:
    """Let the shard's manifest list what is there now."""
    manifest = ShardManifest.load(device / SHARD_NAME)
    files = {name: file_entry(device / name) for name in manifest.files if (device / name).exists()}
    (device / SHARD_NAME).write_text(manifest.model_copy(update={"files": files, **changes}).seal().dumps())


@pytest.mark.parametrize("change", ["kind", "shape", "junk"])
def test_an_overlay_that_does_not_fit_is_refused(deployment: Path, change: str) -> None:
    """Statistics of another kind or shape are refused before anything is computed, with the file that holds them."""
    from sepnas.runtime.engines.torch_engine import TorchEngine

    path = deployment / OVERLAY
    own = load_file(path)
    name = next(iter(own))
    own[name] = own[name].astype("f8") if change == "kind" else np.zeros((3, 3), np.float32)
    path.write_bytes(b"junk" if change == "junk" else save(own))
    seal(deployment / "device0")
    (deployment / "manifest.json").unlink()
    with pytest.raises(DeploymentError) as caught:
        TorchEngine(load_shard(deployment / "device0"))
    assert change == "shape" or path.name in str(caught.value)


def test_an_overlay_that_is_not_listed_is_not_read(deployment: Path) -> None:
    """Without its entry the plan has the shared statistics, and its digest is that of another folder."""
    device = deployment / "device0"
    before = load_shard(device).plans[FEW].weights
    (deployment / OVERLAY).unlink()
    seal(device)
    (deployment / "manifest.json").rename(deployment / "manifest")
    after = load_shard(device).plans[FEW].weights
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_a_device_of_another_export_is_named(deployment: Path, network: SeparableNetwork, tmp_path: Path) -> None:
    """A folder that has other plans than the deployment around it does not belong there."""
    export_tiny(network, tmp_path / "one")
    shutil.rmtree(deployment / "device0")
    shutil.copytree(tmp_path / "one/device0", deployment / "device0")
    with pytest.raises(DeploymentError, match=f"was exported with another plan '{FEW}' than the deployment around it"):
        load_shard(deployment / "device0")


def test_manifests_hold_plans_with_names_that_fit(several: Path) -> None:
    """Names, the default plan and the number of plans are checked when a manifest is read."""
    data = json.loads((several / "manifest.json").read_text())
    plan = data["plans"]["default"]
    for change, says in (
        ({"plans": {"../x": plan}}, r"plans\.\.\./x"),
        ({"plans": {}}, "plans"),
        ({"plans": {"a": plan, "A": plan}, "default_plan": "a"}, "differ in more than upper and lower case"),
        ({"plans": {f"p{index}": plan for index in range(17)}}, "plans"),
        ({"default_plan": "fast"}, "`default_plan` is 'fast', but the plans are default"),
    ):
        with pytest.raises(SpecError, match=says):
            Manifest.from_data({**data, **change}, "manifest.json")


def test_documents_of_plans_are_listed(several: Path) -> None:
    """Each plan is a document of the deployment, sealed like all other files."""
    manifest = load_manifest(several)
    assert {plan_file(name) for name in NAMES} <= manifest.files.keys()


@pytest.mark.filterwarnings("ignore:the plan sends other messages")
def test_no_tensor_takes_the_place_of_another_of_its_name(network: SeparableNetwork, tmp_path: Path) -> None:
    """A weight with the name of the numbers that normalise the image is refused; only an equal tensor may share it."""
    plan = build_plan(network.architecture)
    clash = plan.inputs[0].normalisation(plan.inputs[0].pieces[0])
    assert clash is not None
    other = copy.deepcopy(network)
    other.log_scales[clash] = torch.nn.Parameter(torch.zeros(()))

    def scaled(step: Step) -> Step:
        return replace(step, wire="int8", scale=clash) if isinstance(step, Send) and step.to >= 0 else step

    programs = tuple(tuple(map(scaled, program)) for program in plan.programs)
    with pytest.raises(DeploymentError, match=f"two different tensors are called '{clash}'; rename"):
        export_tiny(other, tmp_path / "deployment", plan=replace(plan, programs=programs))
    assert not (tmp_path / "deployment").exists()
