"""Photographs of 224 pixels go the whole way by commands: search, training, export, and answers of two workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from sepnas.deployment.manifest import Manifest
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.search.folder import load_candidates
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import predict_logits

SIDE = 224
SPACE = """\
name: photographs
network: {backbone: resnet, depth: [10, 18], image_size: 224, num_classes: 2, stem_channels: 8, num_devices: 2,
  cardinality: 2, bottleneck_width: [2, 4], output_channels: 8}
policy: {patterns: ["swap:1"], readouts: [mean], wires: [fp32, int8]}
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Crops of two photographs, of all sizes and shapes, each photograph a class."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    for name, whole in zip(("china", "flower"), load_sample_images().images, strict=True):
        for part, count in (("train", 14), ("val", 4), ("test", 4)):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                height, width = random.integers(200, 400, 2)
                top, left = random.integers(0, whole.shape[0] - height + 1), random.integers(0, 640 - width + 1)
                Image.fromarray(whole[top : top + height, left : left + width]).save(
                    folder / part / name / f"{index}.jpg"
                )
    return folder


def sepnas(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sepnas", *words], cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_photographs_go_the_whole_way(photographs: Path, tmp_path: Path) -> None:
    """A space that names no stem is searched with that of 224 pixels; the devices of what it finds answer as the whole
    network does, send what was predicted, and classify a photograph of any size."""
    (tmp_path / "space.yaml").write_text(SPACE)
    sized = ["--image-size", str(SIDE), "--resize", "crop"]
    data = ["--data", f"folder:{photographs}", "--data-root", str(tmp_path), *sized]
    sepnas(tmp_path, "search", "space.yaml", *data, "--out", "search", "--candidates", "4", "--epochs", "1")
    assert len(load_candidates(tmp_path / "search")) == 4
    sepnas(tmp_path, "pick", "search", "--out", "architecture.json")
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert (architecture.stem, architecture.stem_stride) == ("resnet", 4)
    sepnas(tmp_path, "train", "architecture.json", *data, "--out", "training", "--epochs", "1")
    sepnas(tmp_path, "export", "training", "deployment")
    counted = json.loads(sepnas(tmp_path, "describe", "architecture.json", "--json"))
    assert counted["input_bytes"] == 2 * 3 * SIDE**2
    deployment = tmp_path / "deployment"
    assert Manifest.load(deployment / "manifest.json").payload_bytes == counted["payload_bytes"] > 0
    images = load_dataset(f"folder:{photographs}", root=tmp_path, image_size=SIDE, resize="crop")
    network = load_network(tmp_path / "training")
    whole = predict_logits(network, images.test.images, images).softmax(1)
    paths = sorted(str(path) for path in (photographs / "test").rglob("*.jpg"))
    for engine in ("torch", "onnxruntime"):
        with LocalWorkers(deployment, 2, [Launch(options=("--engine", engine))] * 2) as workers:
            workers.hosts.save(tmp_path / "hosts.yaml")
            words = ["infer", "deployment", *paths, "--devices", "hosts.yaml", "--json"]
            found = json.loads(sepnas(tmp_path, *words))
        for image, shares in zip(found, whole, strict=True):
            assert {each["class"]: each["probability"] for each in image["classes"]} == pytest.approx(
                dict(zip(images.classes, shares.tolist(), strict=True)), abs=1e-4
            )
    assert build_plan(architecture).num_devices == 2
    sepnas(tmp_path, "report", "--search", "search", "--training", "training", "--out", "report.html")
    assert "china" in (tmp_path / "report.html").read_text()
