"""An emulated aarch64 board takes part in a cluster of x86 machines (`make arm`)."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sepnas
from sepnas.nets.separable import SeparableNetwork
from sepnas.spec.hosts import Hosts
from tests.arm_board import ROOT, ArmBoard, NoEmulationError
from tests.helpers_runtime import export_tiny, lively_network, tiny_architecture, transfer, whole_logits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
TIMEOUT_S = 300.0
POLICY = [
    {"after": 0, "transfers": [transfer(1, 0), transfer(0, 1, "int8"), transfer(2, 1, "fp16")]},
    {"after": 2, "transfers": [transfer(1, 0, "int4"), transfer(2, 0)]},
]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> ArmBoard:
    """With sepnas as its users install it on a device."""
    try:
        found = ArmBoard(ROOT / "build/arm")
    except NoEmulationError as reason:
        pytest.skip(f"no emulated board: {reason}")
    wheels = tmp_path_factory.mktemp("wheels")
    source = wheels / "source"
    shutil.copytree(ROOT / "sepnas", source / "sepnas", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    found.install(f"{wheel}[onnxruntime]")
    found.install("--force-reinstall", "--no-deps", str(wheel))
    return found


@pytest.fixture(scope="module")
def network() -> SeparableNetwork:
    return lively_network(tiny_architecture(POLICY, devices=3, depth=11))


@pytest.fixture(scope="module")
def deployment(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "deployment"
    export_tiny(network, folder, ("torch", "onnxruntime"))
    return folder


@contextmanager
def started(python: Path, folder: Path, engine: str) -> Iterator[queue.SimpleQueue[str]]:
    """``sepnas worker`` by an interpreter, away from this repository; the lines that it prints."""
    command = [python, "-m", "sepnas", "worker", folder, "--listen", "127.0.0.1:0", "--engine", engine]
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()
        try:
            yield lines
        finally:
            process.terminate()


@contextmanager
def mixed_cluster(board: ArmBoard, deployment: Path, engine: str, hosts: Path) -> Iterator[str]:
    """Device 1 is the board, the others are x86 processes; writes ``hosts`` and gives the board's first line."""
    x86 = Path(sys.executable)
    with (
        started(x86, deployment / "device0", "onnxruntime") as first,
        started(board.python, deployment / "device1", engine) as second,
        started(x86, deployment / "device2", "onnxruntime") as third,
    ):
        said = [lines.get(timeout=TIMEOUT_S) for lines in (first, second, third)]
        Hosts.on([line.split(" listens on ")[1].split()[0] for line in said]).save(hosts)
        yield said[1]


@pytest.mark.parametrize("engine", ["onnxruntime", "torch", "auto"])
def test_a_board_answers_like_the_whole_network(
    board: ArmBoard, deployment: Path, network: SeparableNetwork, engine: str, tmp_path: Path
) -> None:
    """One aarch64 board and two x86 machines give 64 answers of the whole network, and serve clients on both."""
    if engine != "onnxruntime":
        board.install("torch")
    pixels_BCHW = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    hosts = tmp_path / "hosts.yaml"
    with mixed_cluster(board, deployment, engine, hosts) as said:
        assert "engine torch" in said if engine == "torch" else "onnxruntime" in said
        with sepnas.Session(deployment, devices=hosts, timeout_s=TIMEOUT_S) as session:
            answers = np.concatenate([session.infer(each[None]) for each in pixels_BCHW])
        images = [tmp_path / f"{index}.png" for index in range(4)]
        for path, pixels_CHW in zip(images, pixels_BCHW, strict=False):
            Image.fromarray(pixels_CHW[0]).save(path)
        printed = board.run(
            "-m", "sepnas", "infer", deployment, "--devices", hosts, "--deadline", f"{TIMEOUT_S:g}", *images
        )  # fmt: skip
    expected = whole_logits(network, (pixels_BCHW.astype(np.float32) / 255 - 0.25) / 0.5)
    assert abs(answers - expected).max() <= 1e-5
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert [f"class {best}" in printed for best in expected[: len(images)].argmax(axis=1)] == [True] * len(images)
