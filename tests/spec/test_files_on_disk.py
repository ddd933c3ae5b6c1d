"""Files of deployments and runs that are no files, have no end, lead elsewhere or may not be read."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from sepnas.deployment.manifest import MANIFEST_NAME, SHARD_NAME, WEIGHTS_NAME, Manifest, ShardManifest
from sepnas.deployment.verify import file_entry, load_manifest, verify_device
from sepnas.errors import CheckpointError, DeploymentError, PlanError, SpecError, StorageError
from sepnas.plan.data import MergeData
from sepnas.runtime.engines.shard import load_shard
from sepnas.spec.cluster import Cluster
from sepnas.spec.folder_lock import held
from sepnas.train.checkpoint import BEST, load_network, read_checkpoint, write_checkpoint

NOBODY = 65534


@pytest.fixture
def device(exported: Path, tmp_path: Path) -> Path:
    """A device's folder that a test may spoil."""
    return Path(shutil.copytree(exported / "device0", tmp_path / "device0"))


def _zero(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except OSError as error:
        pytest.skip(f"no device nodes here: {error}")


def _terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "is a FIFO, not a file"),
    "zero": (_zero, "is a device, not a file"),
    "sparse": (_terabyte, "has 1099511627776 bytes, the manifest says"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a file|Is a directory"),
    "link": (lambda path: path.symlink_to("/etc/hostname"), "is a link to .*, out of the deployment"),
    "gone": (lambda path: path.symlink_to("nowhere"), "is missing"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", [WEIGHTS_NAME, "tls/cert.pem"])
def test_what_is_no_file_is_refused_at_once(kind: str, name: str, device: Path):
    """Pipes, devices, terabytes and links out of the folder are named, and nothing of them is read."""
    make, says = ODD[kind]
    (device / name).unlink()
    make(device / name)
    with pytest.raises(DeploymentError, match=says):
        verify_device(device)


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "gone"])
@pytest.mark.parametrize("name", [SHARD_NAME, MANIFEST_NAME])
def test_a_manifest_that_is_no_file_is_refused_at_once(kind: str, name: str, exported: Path, tmp_path: Path):
    """The same for the manifests, and without the word that they are damaged."""
    make, says = ODD[kind]
    make(tmp_path / name)
    says = says if "bytes" not in says else "is larger than 64 MiB"
    with pytest.raises(DeploymentError, match=says) as caught:
        (verify_device if name == SHARD_NAME else load_manifest)(tmp_path)
    assert "damaged" not in str(caught.value) or kind == "sparse"


@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse"])
def test_a_checkpoint_that_is_no_file_is_refused_at_once(kind: str, tmp_path: Path):
    """Weights of a run that are a pipe, a device or a hole of a terabyte are a CheckpointError."""
    ODD[kind][0](tmp_path / BEST)
    with pytest.raises(CheckpointError, match=f"{BEST}: (cannot be read: is a|damaged)"):
        read_checkpoint(tmp_path / BEST)


def test_links_within_a_deployment_are_read(device: Path):
    """A link to a file of the same folder is a file of it, and the folder itself may be a link."""
    (device / WEIGHTS_NAME).rename(device / "w")
    (device / WEIGHTS_NAME).symlink_to("w")
    device.with_name("kitchen").symlink_to(device)
    assert load_shard(device.with_name("kitchen")).rank == 0


@pytest.mark.parametrize("letters", [b"caf\xe9", b"\xff\xfe"])
def test_paths_of_any_letters_are_read(letters: bytes, device: Path, tmp_path: Path):
    """A folder whose name is no UTF-8 holds a checkpoint and a shard like any other."""
    import torch

    folder = tmp_path / os.fsdecode(letters)
    folder.mkdir()
    write_checkpoint(folder / BEST, {"a": torch.ones(2)}, {"x": 1})
    assert read_checkpoint(folder / BEST)[1] == {"x": 1}
    assert load_shard(device.rename(folder / "device0")).rank == 0


def test_nothing_is_begun_in_a_folder_whose_name_is_no_utf8(tmp_path: Path):
    """What some libraries cannot write to is refused before anything is trained or searched there."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(StorageError, match="the folder's name is no UTF-8"), held(folder):
        raise AssertionError
    assert not folder.exists()


# -- sealed, and wrong in itself


def seal(device: Path, **changes: object) -> None:
    """Let the shard's manifest say these things of its plan, and that they are right."""
    manifest = ShardManifest.load(device / SHARD_NAME)
    files = {**manifest.files, WEIGHTS_NAME: file_entry(device / WEIGHTS_NAME)}
    plans = {"default": manifest.plans["default"].model_copy(update=changes)}
    (device / SHARD_NAME).write_text(manifest.model_copy(update={"files": files, "plans": plans}).seal().dumps())


@pytest.mark.parametrize("change", ["shape", "kind", "infinite"])
def test_weights_of_a_wrong_shape_are_refused(change: str, device: Path):
    """Numbers of a merge that are too many, of another kind or not finite are refused before anything is merged."""
    weights = load_file(device / WEIGHTS_NAME)
    plan = ShardManifest.load(device / SHARD_NAME).plans["default"]
    name = next(step.parameter for step in plan.program if isinstance(step, MergeData) and step.parameter)
    found = weights[name]
    weights[name] = {"shape": found.repeat(2), "kind": found.astype("f8"), "infinite": found * np.inf}[change]
    (device / WEIGHTS_NAME).write_bytes(save(weights))
    seal(device)
    with pytest.raises(DeploymentError, match=rf"tensor '{name}' weighs what is merged"):
        load_shard(device)


def test_shapes_that_do_not_fit_are_refused(device: Path):
    """A tensor whose shape is not that of its message, or of what is merged into it, is refused with its step."""
    plan = ShardManifest.load(device / SHARD_NAME).plans["default"]
    for name, shape in plan.shapes.items():
        shapes = {**plan.shapes, name: shape.model_copy(update={"dims": (shape.dims[0] + 1, *shape.dims[1:])})}
        seal(device, shapes=shapes)
        from sepnas.runtime.engines.torch_engine import TorchEngine

        with pytest.raises((DeploymentError, PlanError)):
            TorchEngine(load_shard(device))


@pytest.mark.parametrize("change", ["none", "two", "narrow", "foreign"])
def test_a_manifest_without_an_answer_is_refused(change: str, exported: Path, tmp_path: Path):
    """The client gets one answer with a value for each class, or the manifest is refused."""
    manifest = load_manifest(exported)
    plan = manifest.plan()
    answer = next(message for message in plan.messages if message.destination == -1)
    others = [message for message in plan.messages if message is not answer]
    wrong = {
        "none": [],
        "two": [answer, answer.model_copy(update={"tag": 999})],
        "narrow": [answer.model_copy(update={"shape": answer.shape.model_copy(update={"dims": (2,)})})],
        "foreign": [answer.model_copy(update={"source": 9})],
    }[change]
    broken: Manifest = manifest.model_copy(
        update={"plans": {"default": plan.model_copy(update={"messages": (*others, *wrong)})}}
    ).seal()
    (tmp_path / MANIFEST_NAME).write_text(broken.dumps())
    with pytest.raises(DeploymentError, match="messages` must"):
        load_manifest(tmp_path)


# -- another user's

READS = """
import os, sys
from pathlib import Path
from sepnas.deployment.verify import load_manifest, verify_device, verify_client
from sepnas.train.checkpoint import load_network, read_checkpoint
from sepnas.spec.cluster import Cluster
from sepnas.search.folder import load_front, load_run
from sepnas.train.evaluation import read_evaluations
from sepnas.errors import SepnasError
reads = dict(front=load_front, search=load_run, evaluations=read_evaluations,
             manifest=load_manifest, device=verify_device, client=verify_client, network=load_network,
             checkpoint=read_checkpoint, cluster=Cluster.load)
given = list(zip(sys.argv[1::2], map(Path, sys.argv[2::2])))
for kind, path in given:  # all modules are loaded then, which another user may not be allowed to read
    try:
        reads[kind](path)
    except SepnasError:
        pass
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
for kind, path in given:
    try:
        reads[kind](path)
        print("read")
    except SepnasError as error:
        print(str(error).replace(chr(10), " "))
"""


def read_as_nobody(*reads: tuple[str, Path]) -> list[str]:
    """What another user is told, read by read."""
    arguments = [str(each) for read in reads for each in read]
    code = READS.format(uid=NOBODY if os.geteuid() == 0 else os.geteuid())
    if os.geteuid():
        code = code.replace("os.setgroups([]); ", "")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that anybody may enter, outside of pytest's own, which each run that begins closes to others."""
    with tempfile.TemporaryDirectory(prefix="sepnas-open-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_what_may_not_be_read_is_not_called_damaged(exported: Path, open_path: Path, trained: Path):
    """A folder of umask 077, and files of another owner: the message says so, with owner and mode, and no more."""
    deployment = Path(shutil.copytree(exported, open_path / "deployment"))
    (open_path / "locked").mkdir()
    run = Path(shutil.copytree(trained, open_path / "run"))
    shutil.copytree(deployment, open_path / "locked/deployment")
    shutil.copytree(run, open_path / "locked/run")
    (open_path / "locked").chmod(0o000)
    run.chmod(0o755)
    (run / BEST).chmod(0o000)
    (deployment / "device0/segments").chmod(0o000)
    (deployment / "device1" / SHARD_NAME).chmod(0o000)
    (open_path / "cluster.yaml").write_text("{}")
    (open_path / "cluster.yaml").chmod(0o000)
    locked = open_path / "locked"
    reads = [
        ("manifest", locked / "deployment"),
        ("device", locked / "deployment/device0"),
        ("device", deployment / "device0"),
        ("device", deployment / "device1"),
        ("network", locked / "run"),
        ("evaluations", locked / "run"),
        ("front", locked / "run"),
        ("search", locked / "run"),
        ("checkpoint", run / BEST),
        ("cluster", open_path / "cluster.yaml"),
    ]
    try:
        told = read_as_nobody(*reads)
    finally:
        locked.chmod(0o700)
    for (_, path), says in zip(reads, told, strict=True):
        assert "Permission denied" in says, (path, says)
        assert "damaged" not in says
        assert "remove" not in says
        assert "mode 0000" in says


@pytest.fixture(scope="session")
def trained(network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a network that is read, and its architecture."""
    folder = tmp_path_factory.mktemp("trained")
    network.architecture.save(folder / "architecture.json")
    write_checkpoint(folder / BEST, network.state_dict(), {})
    load_network(folder)
    return folder


def test_names_that_no_file_has_are_errors_of_ours(tmp_path: Path):
    """300 letters, and a zero among them, are a SpecError or a CheckpointError."""
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(SpecError):
            Cluster.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="File name too long"):
        load_network(tmp_path / ("x" * 300))
