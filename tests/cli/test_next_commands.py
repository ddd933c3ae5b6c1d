"""What each command says to type next works in a shell as it stands, from a search to the answers of devices."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sepnas.deployment.manifest import Manifest
from sepnas.separable.space import SearchSpace
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import free_ports
from tests.train.test_data import make_folder

DEMO = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")
TIMEOUT_S = 900


def write_space(folder: Path, classes: int, size: int, channels: int) -> None:
    """The demo's space for other images, in ``space.yaml``."""
    facts = {"num_classes": classes, "image_size": size, "in_channels": channels}
    SearchSpace.from_data(DEMO.to_data() | {"network": DEMO.to_data()["network"] | facts}).save(folder / "space.yaml")


def digits(folder: Path) -> str:
    """The digits, resized: what comes next must say so, too."""
    write_space(folder, 10, 12, 1)
    return "--data digits --image-size 12"


def images(folder: Path) -> str:
    """Colour images in a folder with a blank in its name, cropped."""
    make_folder(folder / "my images", mode="RGB", size=14)
    write_space(folder, 2, 8, 3)
    return "--data 'folder:my images' --image-size 8 --resize crop"


def fashion(folder: Path) -> str:
    """A few images in the files of torchvision's set, where a download would have put them."""
    raw = folder / ".cache/sepnas/FashionMNIST/raw"
    raw.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    write_space(folder, 10, 28, 1)
    return "--data fashion-mnist"


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a person's shell, in which `sepnas` is this one."""
    program = tmp_path / "bin/sepnas"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sepnas "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}


def told_next(said: str) -> str:
    """The first command that a command said to type next."""
    found = re.search(r"next:\s+(sepnas [^\n]*)", said)
    assert found is not None, said
    return found[1]


@contextmanager
def workers(folder: Path, deployment: str, command: str, shell: dict[str, str]) -> Iterator[None]:
    """The command that was printed for one device, for each, with its folder and its address."""
    hosts, running = Hosts.load(folder / "hosts.yaml"), []
    known = re.search(r"device(\d+)", command)
    assert known is not None
    first = int(known[1])
    try:
        for rank in range(Manifest.load(folder / deployment / "manifest.json").num_devices):
            own = command.replace(f"device{first}", f"device{rank}").replace(hosts.address(first), hosts.address(rank))
            process = subprocess.Popen(
                f"exec {own}", shell=True, cwd=folder, env=shell, stdout=subprocess.PIPE, text=True
            )
            running.append(process)
        for process in running:
            assert process.stdout is not None
            assert "listens on" in process.stdout.readline()
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("data", [digits, images, fashion])
def test_each_command_names_one_that_works(data: Callable[[Path], str], tmp_path: Path, shell: dict[str, str]) -> None:
    """For each kind of data set the printed commands run verbatim, until the devices have answered an image."""

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    said = run(f"sepnas search space.yaml {data(tmp_path)} --candidates 4 --epochs 1 --threads 1 --out 'a run'")
    for _ in ("pick", "train"):
        said = run(told_next(said))
    Hosts.on([f"127.0.0.1:{port}" for port in free_ports(3)]).save(tmp_path / "hosts.yaml")
    exported = run(f"{told_next(said)} --hosts hosts.yaml --engine torch")
    worker = re.search(r"^  (sepnas worker .*)$", exported, re.MULTILINE)
    infer = re.search(r"then: (sepnas infer .*) IMAGE\.\.\.", exported)
    assert worker is not None
    assert infer is not None
    taken = Manifest.load(tmp_path / "deployment/manifest.json").image
    shape = (taken.height, taken.width, *([3] if taken.channels == 3 else []))
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "image.png")
    with workers(tmp_path, "deployment", worker[1], shell):
        assert "image.png" in run(f"{infer[1]} image.png")
