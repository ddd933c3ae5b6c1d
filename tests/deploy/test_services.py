"""What starts a worker with its machine, a unit of systemd and a Dockerfile, carried out as far as is possible here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest

from sepnas.deploy.services import PREFIX, UNIT_NAME, DeviceService
from sepnas.deployment.verify import verify_deployment, verify_device
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.spec.hosts import Hosts
from tests.cli.test_run_command import call
from tests.helpers_runtime import SOON_S, WorkerProcess, export_tiny, free_ports

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@pytest.fixture(scope="module")
def served(network, tmp_path_factory):
    """A deployment with units and Dockerfiles, and its hosts: ports of this machine that were free."""
    folder = tmp_path_factory.mktemp("services") / "deployment"
    hosts = Hosts.on([f"127.0.0.1:{port}" for port in free_ports(2)])
    export_tiny(network, folder, ("onnxruntime",), hosts=hosts, services=("systemd", "docker"))
    return folder, hosts


def unit_entries(text):
    """The assignments of a unit, in order."""
    lines = (line for line in text.splitlines() if line and not line.startswith(("#", "[")))
    return [tuple(line.split("=", 1)) for line in lines]


def dockerfile_steps(text):
    """The instructions of a Dockerfile, each with what follows it, lines that go on joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in whole.splitlines() if line]


def build_context(folder):
    """The files that .dockerignore lets into a build: the last pattern that fits decides, as Docker says."""
    patterns = [line for line in (folder / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    found = set()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        tops = [name[: place or None] for place in (*(m.start() for m in re.finditer("/", name)), 0)]
        last = [each for each in patterns if any(fnmatch(top, each.lstrip("!")) for top in tops)][-1:]
        if not last or last[0].startswith("!"):
            found.add(name)
    return found


@contextmanager
def answering(folder, hosts, command, **options):
    """Start device 0 by a command and device 1 as always; both must answer. The line that it began with."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        ready = process.stdout.readline()
        assert "listens on" in ready, process.stderr.read()
        other = WorkerProcess(folder / "device1", listen=hosts.address(1))
        try:
            other.address()
            with Session(folder, hosts) as session:
                assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        finally:
            other.end()
        yield ready
    finally:
        process.terminate()
        assert process.wait(SOON_S) == 0
        process.stdout.close()
        process.stderr.close()


def test_service_files_are_not_the_manifests(served):
    """A deployment with service files checks out, also when they were edited; without the options there are none."""
    folder, _ = served
    verify_deployment(folder)
    for name in (UNIT_NAME, "Dockerfile", ".dockerignore"):
        assert (folder / "device1" / name).is_file()
    path = folder / "device1/Dockerfile"
    kept = path.read_text()
    path.write_text(kept + "# mine\n")
    verify_device(folder / "device1")
    path.write_text(kept)


def test_export_writes_the_requested_services():
    """`sepnas export --help` teaches both options."""
    said = " ".join(call("export", "--help").stdout.replace("│", " ").split())
    assert "--systemd" in said
    assert "--docker" in said
    assert "private key stays out of the image" in said


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("127.0.0.1:17300", "127.0.0.1:17300"),
        ("[::1]:17300", "[::1]:17300"),
        ("192.168.1.20:17301", "0.0.0.0:17301"),
        ("[fd00::7]:17302", "[::]:17302"),
        ("camera.local:17303", "0.0.0.0:17303"),
    ],
)
def test_a_unit_listens_on_the_port_of_the_hosts_file(address, listen):
    """All addresses of the device are listened on, unless the hosts file says that it is this very machine."""
    unit = dict(unit_entries(DeviceService("n", 1, 2, address, "torch").unit()))
    command = shlex.split(unit["ExecStart"])
    assert command[command.index("--listen") + 1] == listen


# -- systemd


def test_the_unit_starts_a_worker(served, tmp_path):
    """Installed below another prefix, the unit's command line and environment start a worker that answers, also where
    no memory may become executable (MemoryDenyWriteExecute=, as a Linux from 6.3 on does it)."""
    folder, hosts = served
    text = (folder / "device0" / UNIT_NAME).read_text().replace(PREFIX, str(tmp_path))
    unit = dict(unit_entries(text))
    shutil.copytree(folder / "device0", tmp_path / "device0")
    (tmp_path / "venv/bin").mkdir(parents=True)
    program = tmp_path / "venv/bin/sepnas"
    deny = "import ctypes\nctypes.CDLL(None).prctl(65, 1, 0, 0, 0)\n" if unit["MemoryDenyWriteExecute"] == "yes" else ""
    program.write_text(f"#!{sys.executable}\n{deny}from sepnas.__main__ import main\nmain()\n")
    program.chmod(0o755)
    environment = dict(each.split("=", 1) for each in shlex.split(unit["Environment"]))
    options = {"cwd": unit["WorkingDirectory"], "env": os.environ | environment}
    with answering(folder, hosts, shlex.split(unit["ExecStart"]), **options) as ready:
        assert "engine onnxruntime" in ready


@needs_systemd
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_systemd_understands_the_unit(engine, tmp_path):
    """`systemd-analyze verify` finds nothing wrong, also where the deployment's name has odd characters."""
    path = tmp_path / UNIT_NAME
    text = DeviceService("50% 'better' $HOME; é", 0, 3, "10.0.0.1:17300", engine).unit()
    # the program and the user are there on a device only
    path.write_text(text.replace(f"{PREFIX}/venv/bin/sepnas", sys.executable).replace("=sepnas\n", "=daemon\n"))
    found = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystem=very"))
    found = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert "Failed to parse protect system value" in found.stderr


@needs_systemd
@pytest.mark.parametrize(("engine", "most"), [("onnxruntime", 2.5), ("torch", 2.7)])
def test_systemd_calls_the_unit_safe(engine, most, tmp_path):
    """`systemd-analyze security` rates the exposure (0 is none, 10 all) as low."""
    path = tmp_path / UNIT_NAME
    path.write_text(DeviceService("n", 0, 3, "10.0.0.1:17300", engine).unit())
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)], capture_output=True, text=True
    )
    exposure = re.search(r"Overall exposure level.*: ([\d.]+) ", found.stdout)
    assert exposure, found.stdout + found.stderr
    assert float(exposure[1]) <= most


# -- Docker


def test_no_key_gets_into_the_image(served):
    """Neither the build's context nor a COPY has certificates or keys; what the worker reads besides is there."""
    folder = served[0] / "device0"
    (folder / "sepnas-1-py3-none-any.whl").write_bytes(b"")
    context = build_context(folder)
    (folder / "sepnas-1-py3-none-any.whl").unlink()
    assert not {name for name in context if "tls" in name or name.endswith(".pem")}
    listed = {name for name in verify_device(folder).files if not name.startswith("tls/")}
    assert context == {*listed, "shard.json", "sepnas-1-py3-none-any.whl"}
    steps = dockerfile_steps((folder / "Dockerfile").read_text())
    copied = [source for verb, rest in steps if verb == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == ["segments", "sepnas-*.whl", "shard.json", "weights*.safetensors"]
    assert [rest for verb, rest in steps if verb == "USER"] == ["10001:10001"]


def docker_build(folder, root, program):
    """Carry the Dockerfile's steps out below ``root``: what would be the container's command and health check."""
    context, workdir, run = build_context(folder), root, []
    for verb, rest in dockerfile_steps((folder / "Dockerfile").read_text()):
        if verb == "WORKDIR":
            workdir = root / rest.lstrip("/")
            workdir.mkdir(parents=True)
        elif verb == "COPY":
            *sources, place = rest.split()
            target = (root / place.lstrip("/")) if place.startswith("/") else workdir / place
            for name in context:
                for source in sources:
                    if fnmatch(name, source) or name.startswith(f"{source}/"):
                        file = target / (name.removeprefix(f"{source}/") if "/" in name else name)
                        file.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(folder / name, file)
        elif verb == "RUN":
            run.append(rest.replace("/tmp/wheel", str(root / "tmp/wheel")))
        elif verb == "HEALTHCHECK":
            health = json.loads(rest[rest.index("[") :])
        elif verb == "ENTRYPOINT":
            command = json.loads(rest)
    command = [str(root / each.lstrip("/")) if each == "/device" else each for each in command]
    return run, [*program, *command[1:]], health


def test_the_image_s_command_starts_a_worker_that_is_healthy(served, tmp_path):
    """With the files that the Dockerfile copies and the mounted certificates, the entry point serves; the health check
    succeeds while it does and fails afterwards."""
    folder, hosts = served
    _, command, health = docker_build(folder / "device0", tmp_path, [sys.executable, "-m", "sepnas"])
    (tmp_path / "device/tls").symlink_to(folder / "device0/tls")
    health[0] = sys.executable
    with answering(folder, hosts, command):
        assert subprocess.run(health, capture_output=True).returncode == 0
    assert subprocess.run(health, capture_output=True).returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_image_s_installation_runs(served, tmp_path):
    """The wheel is built as the Dockerfile says, installed by its RUN line into an empty environment, and serves."""
    folder, hosts = served
    device = shutil.copytree(folder / "device0", tmp_path / "context")
    said = re.search(r"#   (pip wheel .* \. )SEPNAS", (device / "Dockerfile").read_text())[1]
    source = Path(__file__).parents[2]
    wheel = (
        f"{sys.executable} -m {said.replace(' . ', ' ' + shlex.quote(str(device)) + ' ')} {shlex.quote(str(source))}"
    )
    subprocess.run(wheel, shell=True, check=True)
    venv.create(tmp_path / "venv", with_pip=True)
    (run,), command, _ = docker_build(device, tmp_path / "root", [str(tmp_path / "venv/bin/sepnas")])
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clean["PATH"] = f"{tmp_path / 'venv/bin'}:{clean['PATH']}"
    done = subprocess.run(run, shell=True, env=clean, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "Max retries exceeded" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "root/tmp/wheel").exists()
    shutil.copytree(folder / "device0/tls", tmp_path / "root/device/tls")
    with answering(folder, hosts, command, env=clean, cwd=tmp_path) as ready:
        assert "engine onnxruntime" in ready
