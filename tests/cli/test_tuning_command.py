"""An imported network on the command line: fine-tuned, evaluated, split and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sepnas.deploy.graph_export import graph_facts
from sepnas.errors import DataError, TrainingError
from sepnas.measure.evaluation.split_images import read_split
from sepnas.nets.graph import load_graph_network
from sepnas.nets.trainable import load_trainable
from sepnas.plan.document import load_plan
from sepnas.train.checkpoint import LAST, read_checkpoint
from sepnas.train.evaluate import accuracy
from sepnas.train.source import DataSource
from tests.cli.test_train_command import error_of, said
from tests.train.test_data import make_folder

CLASSES = ("dark", "light", "striped")


def picture(kind: str, numbers: np.random.Generator) -> Image.Image:
    """A picture of 20x14 pixels of one of the classes."""
    level = {"dark": 40, "light": 200, "striped": 120}[kind]
    pixels = numbers.normal(level, 40, (14, 20)).clip(0, 255)
    if kind == "striped":
        pixels[:, ::4] = 255
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that are neither square nor of the network's size."""
    root, numbers = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 20), ("test", 5)):
        for kind in CLASSES:
            folder = root / part / kind
            folder.mkdir(parents=True)
            for index in range(count):
                picture(kind, numbers).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def tuned(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with an imported network and a new head."""
    folder = tmp_path_factory.mktemp("runs")
    said("import", "tests.train.tiny:Tiny", "--input-shape", "1x8x8", "--out", folder / "net")
    command = (
        "train",
        folder / "net",
        "--data",
        f"folder:{pictures}",
        "--data-root",
        folder,
        "--out",
        folder / "tuned",
    )
    refused = error_of(DataError, *command)
    assert "--image-size N" in refused
    refused = error_of(TrainingError, *command, "--image-size", "8")
    assert "has scores for 10 classes" in refused
    assert refused.endswith("--head new")
    options = ("--image-size", 8, "--resize", "crop", "--head", "new", "--learning-rate", 0.02, "--epochs", 12)
    output = said(*command, *options)
    assert "validation accuracy" in output
    assert f"next: sepnas partition {folder / 'tuned'}" in output
    return folder / "tuned"


def best_accuracy(run: Path) -> float:
    lines = (run / "history.jsonl").read_text().splitlines()
    return max(json.loads(line)["val_accuracy"] for line in lines)


def test_evaluate_sees_the_pixels_of_training(tuned: Path, pictures: Path) -> None:
    """The pictures of the validation split are prepared as in training, and get the recorded accuracy."""
    graph = load_graph_network(tuned).graph
    wanted = graph_facts(graph).image
    assert wanted is not None
    images = DataSource(f"folder:{pictures}", tuned.parent, image_size=8, resize="crop").load()
    split = read_split(DataSource(f"folder:{pictures}"), wanted, "validation")
    assert split.classes == images.classes == graph.traits.classes == CLASSES
    assert all(np.array_equal(split.read(i), images.val.images[i].numpy()) for i in range(len(images.val)))
    output = said("evaluate", tuned, "--data", f"folder:{pictures}")
    assert f"{best_accuracy(tuned):.2%}" in output
    assert best_accuracy(tuned) > 0.6


@pytest.mark.slow
def test_a_tuned_network_is_split_and_run_by_workers(tuned: Path, pictures: Path) -> None:
    """Its plan is exported, and real workers give the classes of the whole network."""
    folder = tuned.parent
    said("partition", tuned, "--scheme", "rows", "--devices", 2, "--out", folder / "plan.json")
    said("export", tuned, folder / "split", "--plan", folder / "plan.json")
    command = ("evaluate", folder / "split", "--local", "--data", f"folder:{pictures}", "--compare", tuned)
    output = said(*command)
    assert f"{best_accuracy(tuned):.2%}" in output
    assert "100.00%" in output


def test_a_separated_network_learns_from_the_network_that_it_was(tuned: Path, pictures: Path, tmp_path: Path) -> None:
    """Separated, fine-tuned by distillation, evaluated and exported by the plan that its run keeps."""
    data = ("--data", f"folder:{pictures}", "--data-root", tmp_path)
    separated, run = tmp_path / "separated", tmp_path / "run"
    said("separate", tuned, "--devices", 2, "--bytes", "10%", "--wire", "int8", "--out", separated)
    options = ("--image-size", 8, "--resize", "crop", "--epochs", 2)
    output = said("train", separated, *data, *options, "--teacher", tuned, "--out", run)
    assert "validation accuracy" in output
    for name in ("plan.json", "separation.json"):
        assert (run / name).read_bytes() == (separated / name).read_bytes()
    assert network_accuracy(run, pictures) == best_accuracy(run)
    refused = error_of(TrainingError, "train", separated, *data, *options, "--head", "new", "--out", tmp_path / "new")
    assert "is separated already" in refused
    assert "--head new, and separate the result" in refused
    said("export", run, tmp_path / "deployment", "--plan", run / "plan.json", "--engine", "torch")
    assert (tmp_path / "deployment" / "device1").is_dir()


def network_accuracy(folder: Path, pictures: Path) -> float:
    """On validation images; messages are rounded as on their way."""
    images = DataSource(f"folder:{pictures}", folder.parent, image_size=8, resize="crop").load()
    network = load_trainable(folder)
    traits = network.graph.traits
    return accuracy(network, images.val, replace(images, mean=traits.mean, std=traits.std))


SEPARATION = ("--devices", 2, "--bytes", "5%", "--wire", "int4", "--images", 16)


def test_a_network_is_separated_and_fine_tuned_at_once(tuned: Path, pictures: Path, tmp_path: Path) -> None:
    """One command: the accuracies are told, the run's folder is a separated network, and `--resume` goes on with it."""
    run = tmp_path / "separated"
    command = (
        "separate", tuned, *SEPARATION, "--data", f"folder:{pictures}", "--data-root", tmp_path, "--epochs", 1,
        "--out", run,
    )  # fmt: skip
    output = " ".join(said(*command).split())
    start = network_accuracy(run / "start", pictures)
    assert (
        f"validation accuracy: {network_accuracy(tuned, pictures):.2%} of the network, {start:.2%} separated, "
        f"{best_accuracy(run):.2%} after epoch 1"
    ) in output
    assert f"next: sepnas simulate {run / 'plan.json'}" in output
    assert ("training did not help" in output) == (start > best_accuracy(run))
    kept = max(start, best_accuracy(run))
    assert "--epochs 3" not in output
    names = {path.name for path in run.iterdir()}
    assert {"graph.json", "weights.safetensors", "separation.json", "plan.json", "start", "history.jsonl"} <= names
    assert {path.name for path in (run / "start").iterdir()} == {
        "graph.json", "weights.safetensors", "separation.json", "plan.json"
    }  # fmt: skip
    assert read_checkpoint(run / LAST)[1]["identity"]["recipe"]["name"] == "separate"
    assert network_accuracy(run, pictures) == kept
    assert "holds a run already; resume it with --resume" in error_of(TrainingError, *command)
    told = json.loads(said(*command, "--resume", "--json"))
    assert (told["finished"], told["best_epoch"], told["accuracy"]) == (True, 1, kept)
    assert (told["original_accuracy"], told["start_accuracy"]) == (network_accuracy(tuned, pictures), start)
    assert told["payload_bytes"] == load_plan(run / "plan.json").payload_bytes() <= 0.05 * told["exact_bytes"]
    assert (told["devices"], set(told["wires"])) == (2, {"int4"})
    said("export", run, tmp_path / "deployment", "--plan", run / "plan.json", "--engine", "torch")


def test_images_alone_say_what_comes_next(tuned: Path, pictures: Path, tmp_path: Path) -> None:
    """Without `--epochs` images are measured only, and the result is said to be fine-tuned next."""
    data = ("--data", f"folder:{pictures}", "--data-root", tmp_path)
    output = said("separate", tuned, *SEPARATION, *data, "--out", tmp_path / "separated")
    assert "next: the same command with --epochs 3 and another --out fine-tunes it" in output
    told = json.loads(said("separate", tuned, *SEPARATION, *data, "--out", tmp_path / "again", "--json"))
    assert "accuracy" not in told
    assert not (tmp_path / "separated" / "start").exists()


def test_other_images_and_recipes_are_refused(tuned: Path, pictures: Path, tmp_path: Path) -> None:
    """Images whose classes the network does not know, and a recipe that teaches nothing; before a run begins."""
    other = make_folder(tmp_path / "other", ("train", "val"), size=12)
    command = ("separate", tuned, *SEPARATION, "--data-root", tmp_path, "--epochs", 1, "--out", tmp_path / "run")
    refused = error_of(TrainingError, *command, "--data", f"folder:{other}")
    assert "has scores for 3 classes" in refused
    assert not (tmp_path / "run").exists()
    refused = error_of(TrainingError, *command, "--data", f"folder:{pictures}", "--recipe", "finetune")
    assert "recipe 'finetune' has no `distillation`; a separated network learns from the original" in refused
    assert not (tmp_path / "run").exists()
