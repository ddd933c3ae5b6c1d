"""Deployments: what is written, what is checked, and what is refused."""

import errno
import json
import os
import pickle
import re
import resource
import shutil
import stat
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sepnas.deploy.certificates import issue, make_authority
from sepnas.deploy.export import export_deployment
from sepnas.deploy.segments import SegmentExporter, segment_weights
from sepnas.deployment.manifest import Manifest, ShardManifest, certificate_name
from sepnas.deployment.serial import program_of
from sepnas.deployment.verify import load_manifest, verify_client, verify_deployment, verify_device
from sepnas.errors import DeploymentError, HandshakeError, PlanError, SpecError, StorageError, VersionError
from sepnas.plan.serial import program_to_data
from sepnas.plan.steps import Compute
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.shard import load_shard
from sepnas.runtime.engines.torch_archive import checked_archive, load_graph
from sepnas.runtime.engines.torch_check import is_arithmetic
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker.server import Worker
from sepnas.separable.build import build_plan
from sepnas.spec.hosts import Hosts, format_address, parse_address
from tests.helpers_runtime import export_tiny, lively_network, tiny_architecture
from tests.limits import PROCESS_S


@pytest.fixture
def deployment(exported, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


# -- what is written


def test_a_deployment_is_complete_and_checks_out(exported):
    """The manifest lists every other file, and everything is what it says."""
    manifest = verify_deployment(exported)
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found - {"manifest.json"} == set(manifest.files)
    for name in ("hosts.yaml", "authority/ca.pem", "client/tls/cert.pem", "device1/tls/key.pem", "device0/shard.json"):
        assert name in found
    assert not list(exported.parent.glob(".*"))


def test_each_device_holds_its_own_tensors_once(exported, network):
    """A device's weights file holds the tensors of its own segments, merges and image, each once, and no others."""
    plan = build_plan(network.architecture)
    for rank in range(2):
        tensors = load_file(exported / f"device{rank}/weights.safetensors")
        expected = [*network.merge_weights(rank).values(), torch.zeros(2, 1)]  # mean and deviation of one channel
        for segment in plan.segments[rank].values():
            expected.extend(segment_weights(network.segment(rank, segment.layers)).values())
        assert len(tensors) == len(expected)
        assert sum(array.size for array in tensors.values()) == sum(tensor.numel() for tensor in expected)
        shard = load_shard(exported / f"device{rank}")
        used = {name for segment in shard.manifest.segments.values() for name in segment.weights}
        assert used | {"merge0", "normalise:image"} == set(tensors)


def test_private_keys_are_private(exported):
    """Every private key has mode 0600, the authority's too."""
    keys = list(exported.rglob("key.pem"))
    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


@pytest.mark.slow
def test_the_same_network_is_the_same_deployment(exported, network, tmp_path, monkeypatch):
    """A second export has the same id and the same segments, with other certificates; other weights have another id."""
    monkeypatch.setattr(SegmentExporter, "_known", {})  # nothing is taken from the first one
    export_tiny(network, tmp_path / "again", ("torch", "onnxruntime"))
    one, two = load_manifest(exported), load_manifest(tmp_path / "again")
    assert one.deployment_id == two.deployment_id
    same = {name for name in one.files if one.files[name] == two.files[name]}
    assert {name for name in one.files if name.endswith((".pt2", ".onnx", ".safetensors"))} <= same
    assert "device0/tls/cert.pem" not in same
    export_tiny(lively_network(network.architecture, seed=1), tmp_path / "other")
    assert load_manifest(tmp_path / "other").deployment_id != one.deployment_id


def test_segments_compute_what_their_layers_compute(exported, network):
    """Each exported segment gives bit for bit what the layers give, for any batch."""
    for rank in range(2):
        shard = load_shard(exported / f"device{rank}")
        engine = TorchEngine(shard, threads=1)
        for step in shard.first.program:
            if isinstance(step, Compute):
                shape = shard.first.shapes[step.inputs[0]]
                for batch in (1, 3):
                    x_bchw = np.random.default_rng(0).random((batch, *shape.dims), "f4")
                    module = network.segment(rank, shard.manifest.segments[step.segment].layers)
                    with torch.inference_mode():
                        expected = module(torch.from_numpy(x_bchw)).numpy()
                    np.testing.assert_array_equal(engine.run(step.segment, [x_bchw])[0], expected)


def test_a_segment_loads_without_sepnas(exported):
    """A .pt2 file needs only torch: no code of ours, no path of the machine that exported it."""
    path = next((exported / "device0/segments").glob("*.pt2"))
    code = f"import sys, torch; torch.export.load({str(path)!r}); assert 'sepnas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", timeout=PROCESS_S)
    with zipfile.ZipFile(path) as archive:
        assert b"sepnas" not in archive.read(next(n for n in archive.namelist() if n.endswith("model.json")))


def test_programs_round_trip(exported, network):
    """Steps written to a shard manifest and read back are the plan's own."""
    plan = build_plan(network.architecture)
    for rank in range(2):
        shard = ShardManifest.load(exported / f"device{rank}/shard.json")
        assert program_of(shard, "default") == plan.programs[rank]
        assert shard.plans["default"].program == program_to_data(plan.programs[rank])
        assert shard.peers() == (1 - rank,)


def test_a_device_that_the_answer_does_not_need_gets_a_folder(tmp_path):
    """A device with an empty program is exported, checks out and loads."""
    network = lively_network(tiny_architecture([], devices=2, depth=11))
    export_tiny(network, tmp_path / "deployment")
    verify_deployment(tmp_path / "deployment")
    assert load_shard(tmp_path / "deployment/device1").first.program == ()


# -- nothing is unpickled


def test_loading_unpickles_nothing(exported, monkeypatch):
    """A deployment loads and runs while every way to unpickle is broken."""

    def forbidden(*arguments, **options):
        raise AssertionError("something was unpickled")

    engine_shard = load_shard(exported / "device0")
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(torch._C, "_pickle_load_obj", forbidden)
    engine = TorchEngine(engine_shard, threads=1)
    assert engine.run(next(iter(engine_shard.manifest.segments)), [np.zeros((1, 1, 8, 8), np.float32)])[0].shape[0] == 1


def rewritten(source, target, change):
    """A copy of a .pt2 archive whose records went through ``change``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        records = {name: old.read(name) for name in old.namelist()}
        for name, data in change(records).items():
            new.writestr(name, data)
    return target


def in_model(old, new):
    def change(records):
        name = next(name for name in records if name.endswith("models/model.json"))
        assert old in records[name]
        return {**records, name: records[name].replace(old, new)}

    return change


NO_SIZES = b'"sym_int_values": {}'
EVIL = pickle.dumps(print)
ATTACKS = {
    "sample inputs": lambda r: {**r, "archive/data/sample_inputs/model.pt": EVIL},
    "'data/weights/weight_0'": lambda r: {**r, "archive/data/weights/weight_0": EVIL},
    "'data/aotinductor/model/x.so'": lambda r: {**r, "archive/data/aotinductor/model/x.so": b"ELF"},
    "is not empty": lambda r: {**r, "archive/data/constants/model_constants_config.json": b'{"config": {"a": 1}}'},
    "no arithmetic": in_model(b"Symbol('s", b"__import__('os').system('true') or Symbol('s"),
    "no arithmetic: .9\\*\\*9": in_model(b"Symbol('s", b"9**9**9**9 + Symbol('s"),
    "no arithmetic: .1111": in_model(b"Symbol('s", b"1" * 100_000 + b"x + Symbol('s"),
    "uses operator 'torch.hub.load'": in_model(b"torch.ops.aten.relu.default", b"torch.hub.load"),
    "uses operator 'torch.ops.aten.from_file": in_model(
        b"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default"
    ),
    "is no name": in_model(b'"name": "inputs_0"', b'"name": "x=print(1)"'),
    "a `sym_int_values` that is no name": in_model(NO_SIZES, b'"sym_int_values": {"x=print(1)": {"as_int": 1}}'),
    "`sym_int_values` that are no sizes": in_model(NO_SIZES, b'"sym_int_values": {"x": {"as_string": "mean"}}'),
    "no arithmetic: 'print": in_model(
        NO_SIZES, b'"sym_int_values": {"x": {"as_expr": {"expr_str": "print(1)", "hint": {"as_int": 2}}}}'
    ),
    "a text that no segment has": in_model(b'"type": "cpu"', b'"type": "cpu\\n"'),
    "the text 'x', which no operator of a segment takes": in_model(b'"as_bool": false', b'"as_string": "x"'),
    "not a segment": in_model(b'{"graph_module"', b'{{"graph_module"'),
}


@pytest.mark.parametrize("says", ATTACKS)
def test_a_segment_that_brings_more_than_a_graph_is_refused(exported, tmp_path, says):
    """Pickles, libraries, foreign operators and expressions to evaluate are refused before torch sees them."""
    source = exported / "device0/segments"
    path = rewritten(next(source.glob("*.pt2")), tmp_path / "evil.pt2", ATTACKS[says])
    with pytest.raises(DeploymentError, match=rf"{re.escape(str(path))}: .*{says}"):
        checked_archive(path)
    with pytest.raises(DeploymentError):
        load_graph(path)


def test_files_that_are_no_archives_are_refused(tmp_path):
    """A file that is no zip, and a path that does not exist, are DeploymentErrors."""
    (tmp_path / "text.pt2").write_text("no")
    for name in ("text.pt2", "none.pt2"):
        with pytest.raises(DeploymentError, match="not a segment that `sepnas export` wrote"):
            checked_archive(tmp_path / name)


def test_sizes_are_checked_in_linear_time():
    """The check of a size does not try every way to read a long number."""
    for text in ("1" * 1000 + "x", "(" * 999 + "x", "1" * 100_000 + "x", "s1" * 50_000 + "x"):
        assert not is_arithmetic(text)
    assert is_arithmetic("Mul(Integer(16), Symbol('s72', positive=True, integer=True)) + 3*(4 - s0)")


# -- one byte


def flip(path, place=0.5):
    """Change one byte of a file and nothing else about it."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


KINDS = [
    "device0/weights.safetensors",
    "device0/segments/{segment}.pt2",
    "device0/segments/{segment}.onnx",
    "device0/shard.json",
    "device0/tls/cert.pem",
    "device0/tls/ca.pem",
    "device0/tls/key.pem",
    "client/tls/cert.pem",
    "authority/ca.pem",
    "hosts.yaml",
    "manifest.json",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_changed_byte_is_noticed_and_named(deployment, kind, place):
    """Whatever byte of whatever file changes, checking the deployment names the file."""
    segment = next((deployment / "device0/segments").iterdir()).stem
    path = deployment / kind.format(segment=segment)
    flip(path, place)
    with pytest.raises((DeploymentError, VersionError), match=re.escape(path.name)):
        verify_deployment(deployment)


@pytest.mark.parametrize("kind", KINDS[:7])
def test_a_worker_does_not_start_on_a_changed_byte(deployment, kind):
    """A device's own copy is checked when its worker starts, without the rest of the deployment."""
    segment = next((deployment / "device0/segments").iterdir()).stem
    path = deployment / kind.format(segment=segment)
    flip(path)
    shutil.move(deployment / "device0", deployment.parent / "alone")
    with pytest.raises(DeploymentError, match=re.escape(path.name)):
        Worker(deployment.parent / "alone", "127.0.0.1", 0)


@pytest.mark.parametrize("name", ["manifest.json", "client/tls/cert.pem", "client/tls/key.pem"])
def test_a_client_does_not_start_on_a_changed_byte(deployment, name):
    """A session checks what it uses itself."""
    flip(deployment / name)
    with pytest.raises(DeploymentError, match=re.escape(Path(name).name)):
        Session(deployment, Hosts.local(2))


def test_whitespace_in_a_manifest_is_a_change_too(deployment):
    """A manifest is read only in the very bytes in which it was written."""
    path = deployment / "manifest.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DeploymentError, match=r"manifest\.json: was changed after it was written"):
        load_manifest(deployment)


def test_an_edited_example_of_hosts_has_a_remedy(deployment):
    """Whoever edits the example of hosts is told to edit a copy."""
    path = deployment / "hosts.yaml"
    path.write_text(path.read_text().replace("127.0.0.1", "10.0.0.1"))
    with pytest.raises(DeploymentError, match=r"hosts\.yaml: .*edit a copy, and name the copy with --devices"):
        verify_client(deployment)


def test_unlisted_files_are_ignored(deployment):
    """A log in a device's folder breaks nothing; weights that no manifest lists are not loaded."""
    (deployment / "device0/worker.log").write_text("started")
    (deployment / "device0/segments/other.pt2").write_bytes(EVIL)
    verify_deployment(deployment)
    load_shard(deployment / "device0")
    for kind, name, unlisted in (
        (ShardManifest, "device0/shard.json", "weights.safetensors"),
        (Manifest, "manifest.json", "client/tls/ca.pem"),
    ):
        sealed = kind.load(deployment / name)
        files = {key: entry for key, entry in sealed.files.items() if key != unlisted}
        (deployment / name).write_text(sealed.model_copy(update={"files": files}).seal().dumps())
    with pytest.raises(DeploymentError, match=r"device0/weights\.safetensors: no manifest lists it"):
        load_shard(deployment / "device0")
    with pytest.raises(DeploymentError, match=r"client/tls/ca\.pem: no manifest lists it"):
        verify_client(deployment)


def test_a_missing_file_is_named(deployment):
    """A file that is not there is named with its folder."""
    (deployment / "device1/weights.safetensors").unlink()
    with pytest.raises(DeploymentError, match=r"device1/weights\.safetensors: is missing"):
        verify_deployment(deployment)
    with pytest.raises(DeploymentError, match=r"device1/weights\.safetensors: is missing"):
        verify_device(deployment / "device1")
    with pytest.raises(DeploymentError, match=r"has no shard\.json; expected a device's folder"):
        verify_device(deployment)


def test_a_shard_of_another_deployment_is_refused(deployment, network, tmp_path):
    """A device's folder of another deployment, whole in itself, is refused where it does not belong."""
    export_tiny(lively_network(network.architecture, seed=2), tmp_path / "other")
    shutil.rmtree(deployment / "device1")
    shutil.copytree(tmp_path / "other/device1", deployment / "device1")
    other = load_manifest(tmp_path / "other").deployment_id[:16]
    with pytest.raises(DeploymentError, match=rf"device1: is a shard of deployment {other}, but the deployment around"):
        verify_device(deployment / "device1")
    shutil.rmtree(deployment / "device1")
    (deployment / "device0").rename(deployment / "device1")
    with pytest.raises(DeploymentError, match="holds the shard of rank 0; its name must be device0"):
        verify_device(deployment / "device1")
    (deployment / "device1").rename(deployment / "kitchen")
    assert verify_device(deployment / "kitchen").rank == 0  # a copy may be called as its owner likes


def test_a_key_that_others_may_read_is_refused(deployment):
    """A private key with a wider mode is refused with the command that repairs it."""
    key = deployment / "device0/tls/key.pem"
    key.chmod(0o644)
    with pytest.raises(DeploymentError, match=rf"others may use \(mode 0644\); run: chmod 600 {re.escape(str(key))}"):
        verify_device(deployment / "device0")


@pytest.mark.parametrize(("name", "version"), [("manifest.json", 4), ("device0/shard.json", 4)])
def test_a_newer_version_is_named(deployment, name, version):
    """A manifest of a newer version is refused as that, not as damaged."""
    path = deployment / name
    path.write_text(path.read_text().replace(f'"version": {version}', f'"version": {version + 1}', 1))
    check = verify_deployment if name == "manifest.json" else verify_device
    says = rf"field `version`: this sepnas reads .* up to version {version}, got {version + 1}"
    with pytest.raises(VersionError, match=says):
        check(path.parent)


@pytest.mark.parametrize(("name", "version"), [("manifest.json", 4), ("device0/shard.json", 4)])
def test_an_older_version_is_named(deployment, name, version):
    """A manifest of an older version is refused as that, and says to export again."""
    path = deployment / name
    path.write_text(path.read_text().replace(f'"version": {version}', f'"version": {version - 1}', 1))
    check = verify_deployment if name == "manifest.json" else verify_device
    with pytest.raises(
        DeploymentError, match=rf"an older sepnas \(version {version - 1}, this one writes {version}\); export it"
    ):
        check(path.parent)


def test_an_unknown_key_in_a_manifest_is_named(deployment):
    """Manifests allow no unknown keys."""
    data = json.loads((deployment / "manifest.json").read_text())
    with pytest.raises(SpecError, match=r"field `colour`: unknown key; allowed: .*deployment_id"):
        Manifest.from_data({**data, "colour": 1}, "manifest.json")
    with pytest.raises(SpecError, match=r"files.*\.\./up"):
        Manifest.from_data({**data, "files": {"../up": {"sha256": "0" * 64, "bytes": 1}}}, "manifest.json")


# -- certificates


def write_tls(folder, authority, name, **options):
    credential = issue(authority, name, **options)
    folder.mkdir()
    (folder / "ca.pem").write_bytes(authority.certificate_pem())
    (folder / "cert.pem").write_bytes(credential.certificate_pem())
    (folder / "key.pem").write_bytes(credential.key_pem())
    return folder


def test_an_expired_certificate_is_noticed_before_anyone_connects(tmp_path):
    """An expired certificate is a HandshakeError that says so and what to do."""
    authority, name = make_authority("a" * 64), certificate_name(1, "a" * 64)
    Identity(write_tls(tmp_path / "good", authority, name), 1, "a" * 64)
    with pytest.raises(HandshakeError, match=r"cert\.pem: .*certificate has expired; check this machine's clock"):
        Identity(write_tls(tmp_path / "old", authority, name, validity_days=-1), 1, "a" * 64)


def test_an_expired_deployment_does_not_start(tmp_path, network, monkeypatch):
    """Neither a worker nor a client starts with expired certificates."""
    monkeypatch.setattr("sepnas.deploy.writer.issue", lambda authority, name, days: issue(authority, name, -1))
    export_tiny(network, tmp_path / "old")
    with pytest.raises(HandshakeError, match="certificate has expired"):
        Worker(tmp_path / "old/device0", "127.0.0.1", 0)
    with pytest.raises(HandshakeError, match="certificate has expired"):
        Session(tmp_path / "old")


def test_the_certificate_of_another_rank_is_refused(tmp_path):
    """A certificate serves one rank of one deployment."""
    folder = write_tls(tmp_path / "tls", make_authority("a" * 64), certificate_name(1, "a" * 64))
    for rank, deployment_id in ((0, "a" * 64), (1, "b" * 64)):
        with pytest.raises(HandshakeError, match=r"device1\.aaaaaaaaaaaaaaaa\.sepnas|not valid for"):
            Identity(folder, rank, deployment_id)


def test_a_key_of_another_certificate_is_refused(tmp_path):
    """A certificate and a key that do not belong together are a DeploymentError."""
    authority = make_authority("a" * 64)
    folder = write_tls(tmp_path / "tls", authority, certificate_name(1, "a" * 64))
    (folder / "key.pem").write_bytes(issue(authority, "x").key_pem())
    with pytest.raises(DeploymentError, match="not a certificate and its key"):
        Identity(folder, 1, "a" * 64)


# -- where it is written


def test_a_deployment_is_only_replaced_by_force(deployment, network):
    """An existing deployment is refused, with force replaced, and anything else is never touched."""
    before = load_manifest(deployment)
    with pytest.raises(DeploymentError, match=r"is a deployment already; .*`force=True`"):
        export_tiny(network, deployment)
    assert load_manifest(deployment) == before
    export_tiny(network, deployment, force=True)
    assert load_manifest(deployment) != before
    verify_deployment(deployment)
    other = deployment.parent / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(DeploymentError, match="exists and is not a deployment"):
        export_tiny(network, other, force=True)
    assert (other / "letter.txt").read_text() == "dear"
    assert not list(deployment.parent.glob(".*"))


def test_the_current_folder_is_filled_and_replaced(tmp_path, network, monkeypatch):
    """An empty folder counts as none, even the current one; an export that fails leaves it as it was."""
    monkeypatch.chdir(tmp_path)
    export_tiny(network, Path())
    before = verify_deployment(tmp_path)
    failures = [OSError(errno.ENOSPC, "No space left on device")]

    def rename(source, place, real=Path.rename):
        if source.match(".sepnas-export-*/manifest.json") and failures:
            raise failures.pop()
        return real(source, place)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", rename)
        with pytest.raises(StorageError, match="No space left"):
            export_tiny(network, Path(), force=True)
    assert verify_deployment(tmp_path) == before
    export_tiny(network, Path(), force=True)
    assert verify_deployment(tmp_path) != before
    assert not list(tmp_path.glob(".*"))


def test_mismatches_are_refused_before_anything_is_written(tmp_path, network):
    """Whatever is wrong with classes, channels, names, days or hosts leaves nothing behind."""
    good = {"name": "n", "classes": [*"abcde"], "mean": [0.5], "std": [0.5]}
    wrong = {
        "`classes` must name 5 classes, got 2": {"classes": ["a", "b"]},
        "`mean` must hold one number for each of 1 channels, got 3": {"mean": [0, 0, 0]},
        "std.0": {"std": [0.0]},
        "none is empty, got 'a'": {"classes": [*"abcda"]},
        "none is empty, got ' '": {"classes": [*"abcd "]},
        "no address for rank 1": {"hosts": Hosts.local(1)},
        "`out_dir` is empty": {"out_dir": ""},
    }
    wrong |= {
        f"without slashes, got {name[:20]!r}"[:-1]: {"name": name} for name in ("", " ", "a/b", "a\nb", "x" * 300)
    }
    days = (0, -1, float("nan"), float("inf"), 1e6)
    wrong |= {f"`validity_days` must be more than 0 and at most 36500, got {d!r}": {"validity_days": d} for d in days}
    for says, change in wrong.items():
        with pytest.raises(SpecError, match=re.escape(says)):
            export_deployment(network, **{"out_dir": tmp_path / "out", **good, **change})
    assert not list(tmp_path.iterdir())


def test_progress_is_reported(tmp_path, network):
    """The callback hears of every segment and file, up to the last."""
    heard = []
    export_tiny(network, tmp_path / "out", progress=lambda done, total, what: heard.append((done, total, what)))
    assert [done for done, _, _ in heard] == list(range(1, heard[0][1] + 1))
    assert heard[-1][2] == "manifest.json"


FULL = """
import resource, sys
from pathlib import Path
from sepnas.errors import StorageError
from tests.helpers_runtime import export_tiny, lively_network, tiny_architecture
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
network = lively_network(tiny_architecture([], devices=1, depth=11))
try:
    export_tiny(network, Path(sys.argv[1]))
except StorageError as error:
    print(f"StorageError: {error}")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on file sizes")
@pytest.mark.slow
def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path):
    """When a write fails the export is a StorageError and nothing is left."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_S, cwd=Path(__file__).parents[2])
    says = r"StorageError: .*/out: the deployment cannot be written, nothing was left behind: File too large"
    assert re.search(says, done.stdout), done.stderr
    assert not list(tmp_path.iterdir())


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing(tmp_path, network):
    """On a really full disk the export is a StorageError, nothing is left, and what stood there still stands."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "kept").write_bytes(b"x" * 1000)
        with pytest.raises(StorageError, match="No space left on device"):
            export_tiny(network, disk / "out")
        assert [path.name for path in disk.iterdir()] == ["kept"]
        (disk / "kept").unlink()
        with pytest.raises(StorageError, match="No space left on device"):
            export_tiny(network, disk)
        assert not list(disk.iterdir())


def test_an_empty_disk_is_filled(tmp_path, network):
    """A mount point, which cannot be renamed, can be a deployment's folder."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        export_tiny(network, disk)
        verify_deployment(disk)
        assert not list(disk.glob(".*"))


def test_a_folder_that_may_not_be_written_is_a_storage_error(tmp_path, network):
    """A target below a file is a StorageError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="out: the deployment cannot be written"):
        export_tiny(network, tmp_path / "file/out")


# -- hosts and programs


def test_hosts_round_trip_and_find_addresses(tmp_path):
    """A hosts file says where each rank listens, in YAML and JSON."""
    hosts = Hosts.on(["127.0.0.1:5000", "[::1]:5001", "board.local:65535"])
    for name in ("hosts.yaml", "hosts.json"):
        assert Hosts.load(hosts.save(tmp_path / name)) == hosts
    assert parse_address(hosts.address(1)) == ("::1", 5001)
    assert format_address("::1", 5001) == "[::1]:5001"
    with pytest.raises(SpecError, match="no address for rank 7; `devices` lists the ranks 0, 1, 2"):
        hosts.address(7)


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ([{"rank": 0, "address": "board"}], r"devices\.0\.address.*expected HOST:PORT.*got 'board'"),
        ([{"rank": 0, "address": "::1:5000"}], "expected HOST:PORT"),
        ([{"rank": 0, "address": "a:0"}], r"the port must lie in 1\.\.65535"),
        ([{"rank": 0, "address": "a:99999"}], r"the port must lie in 1\.\.65535"),
        ([{"rank": 0, "address": "a:1"}, {"rank": 0, "address": "a:2"}], "each `rank` may occur once; repeated: 0"),
        ([{"rank": 0, "address": "a:1"}, {"rank": 1, "address": "a:1"}], "each `address` may occur once"),
        ([{"rank": -1, "address": "a:1"}], r"devices\.0\.rank"),
        ([{"rank": 0, "adress": "a:1"}], "unknown key; allowed: rank, address"),
        ([], "devices"),
    ],
)
def test_wrong_hosts_are_named(devices, says):
    """Every mistake in a hosts file is named with its place and what is allowed."""
    with pytest.raises(SpecError, match=says):
        Hosts.from_data({"devices": devices}, "hosts.yaml")


def changed_shard(exported, change):
    data = json.loads((exported / "device0/shard.json").read_text())
    change(data["plans"]["default"])
    return ShardManifest.from_data(data, "shard.json")


def step_of(data, kind):
    return next(step for step in data["program"] if step["step"] == kind)


def send_first(data, channels):
    """Send so many channels."""
    step = step_of(data, "send")
    step["region"] = [[0, channels], *step["region"][1:]]


BROKEN = {
    "takes tensor 'nothing', which no earlier step makes": lambda d: step_of(d, "compute").update(inputs=["nothing"]),
    "runs segment 'nothing', which `segments` does not": lambda d: step_of(d, "compute").update(segment="nothing"),
    "waits for message 999 from": lambda d: step_of(d, "recv").update(tag=999),
    "sends tensor 'nothing', which no earlier": lambda d: step_of(d, "send").update(tensor="nothing"),
    "sends C 0..99 of tensor": lambda d: send_first(d, 99),
    "in int4, but no such message is listed": lambda d: step_of(d, "send").update(wire="int4"),
    "listed with another shape": lambda d: send_first(d, 1),
    "whose shape `shapes` does not hold": lambda d: step_of(d, "merge").update(output="nothing"),
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_program_that_cannot_be_carried_out_is_refused(exported, says):
    """Each step is checked against the tensors, segments and messages before it; the error names the step."""
    shard = changed_shard(exported, BROKEN[says])
    with pytest.raises(PlanError, match=rf"device: `plans\.default\.program\.\d+`: .*{re.escape(says)}"):
        program_of(shard, "default", "device")


def test_an_unknown_step_is_named(exported):
    """A step that this version does not know is a SpecError that names it."""
    with pytest.raises(SpecError, match=r"program\.0.*'dance'"):
        changed_shard(exported, lambda data: data["program"].insert(0, {"step": "dance"}))
