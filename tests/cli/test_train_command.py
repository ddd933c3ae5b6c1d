"""``sepnas train``, ``export`` and ``report --training`` at the terminal."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sepnas.__main__ import main as sepnas_command
from sepnas.cli.main import app
from sepnas.console import step_bar
from sepnas.deployment.manifest import Manifest
from sepnas.errors import DataError, DeploymentError, SepnasError
from sepnas.runtime.client.images import read_image
from sepnas.runtime.service.service import Service
from sepnas.search.run import supernet_recipe
from sepnas.spec.dataset import DataFacts
from sepnas.spec.hosts import Hosts
from sepnas.train.checkpoint import LAST, read_checkpoint
from sepnas.train.evaluation import EvaluatedClass, Evaluation
from sepnas.train.recipe import RECIPES, RecipeChanges, default_recipe
from tests.train.test_data import make_folder
from tests.train.test_train import small_data

NETWORK = ("resnext11_2x4d", "-n", "2", "--threads", "1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(kind: type[SepnasError], *arguments: object) -> str:
    error = run(*arguments).exception
    assert isinstance(error, kind)
    return str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of two classes, 12 pixels a side."""
    return make_folder(tmp_path_factory.mktemp("data") / "images", size=12)


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Path:
    """A run on ``folder`` at 8 pixels that stopped after one of three epochs."""
    out, options = folder.parent / "a [run]", ("--image-size", 8, "--epochs", 3, "--stop-after-s", 0)
    output = said("train", *NETWORK, "--data", f"folder:{folder}", "--out", out, *options)
    assert f"-> {out}\nstopped after epoch 1; repeat the command with --resume to continue" in output
    return out


@pytest.mark.slow
def test_an_interrupted_run_is_exported_with_a_remark(interrupted: Path, tmp_path: Path) -> None:
    """The best epoch so far becomes a deployment; what to type next has the addresses of its hosts.yaml."""
    hosts = Hosts.on(["10.0.0.7:7001", "10.0.0.8:7001"]).save(tmp_path / "hosts.yaml")
    out = tmp_path / "out"
    output = said("export", interrupted, out, "--hosts", hosts)
    assert f"{interrupted}: stopped after 1 of 3 epochs; the best one is exported" in output
    assert f"sepnas worker {out}/device0 --listen 10.0.0.7:7001" in output
    assert f"sepnas infer {out} IMAGE..." in output
    assert Manifest.load(out / "manifest.json").classes == ("cat", "dog")


def test_an_export_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, a line says so now and then."""
    monkeypatch.setattr("sepnas.console.SAY_EVERY_S", 0.0)
    with step_bar("export") as show:
        show(3, 40, "device0: block2")
    assert "export: 3/40, device0: block2\n" in capsys.readouterr().err


def test_a_run_of_no_epoch_is_not_exported(interrupted: Path, tmp_path: Path) -> None:
    """The file that is missing is named, with the command that makes it."""
    (tmp_path / "data.json").write_bytes((interrupted / "data.json").read_bytes())
    message = error_of(DeploymentError, "export", tmp_path, tmp_path / "out")
    assert "best.safetensors is missing; `sepnas train" in message


def test_an_architecture_of_another_size_names_the_option(interrupted: Path, folder: Path, tmp_path: Path) -> None:
    """Following the message makes the command work."""
    command = ("train", interrupted / "architecture.json", "--data", f"folder:{folder}", "--out", tmp_path / "run")
    assert "resize the images: --image-size 8" in error_of(SepnasError, *command)
    assert not (tmp_path / "run").exists()
    said(*command, "--image-size", 8, "--epochs", 1)


def test_images_must_be_named_where_they_are_not_the_digits(interrupted: Path, tmp_path: Path) -> None:
    """Without --data a network or a space for other images is told which data sets there are."""
    for command in (("train", interrupted / "architecture.json"), ("search", "search_spaces/cifar-small.yaml")):
        message = error_of(DataError, *command, "--out", tmp_path / "run")
        assert "no data set is named: " in message
        assert "cifar10, cifar100, fashion-mnist or folder:PATH" in message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with --test on arrows to the left, and a tenth as many to the right, which are their mirror images."""
    root, numbers = tmp_path_factory.mktemp("arrows"), np.random.default_rng(0)
    for part, counts in (("train", (80, 8)), ("val", (20, 2)), ("test", (30, 3))):
        for name, count in zip(("left", "right"), counts, strict=True):
            (root / "images" / part / name).mkdir(parents=True)
            for index in range(count):
                arrow = np.zeros((8, 8), np.uint8)
                arrow[:, :4] = numbers.integers(150, 255, (8, 4))
                image = Image.fromarray(arrow if name == "left" else arrow[:, ::-1].copy())
                image.save(root / "images" / part / name / f"{index}.png")
    options = ("--epochs", 6, "--recipe", "digits", "--test")
    output = said("train", *NETWORK, "--data", f"folder:{root / 'images'}", "--out", root / "run", *options)
    (root / "said").write_text(output)
    return root


def test_the_accuracy_of_each_class_is_printed_and_kept(arrows: Path) -> None:
    """At the end of a training: of all images, of each class alike and the lowest, with the command and the date."""
    for split, counts in (("validation", [20, 2]), ("test", [30, 3])):
        found = Evaluation.load(arrows / "run" / f"{split}.json")
        assert [(each.name, each.images) for each in found.classes] == [("left", counts[0]), ("right", counts[1])]
        right = sum(each.accuracy * each.images for each in found.classes)
        assert found.accuracy == pytest.approx(right / sum(counts)) == pytest.approx(right / found.images)
        assert found.mean_of_classes == pytest.approx(sum(each.accuracy for each in found.classes) / 2)
        assert f"{split} accuracy {found.accuracy:.2%} of {sum(counts)} images" in (arrows / "said").read_text()
        assert datetime.fromisoformat(found.date).tzinfo is not None
        assert found.command


def test_the_report_has_the_measured_accuracies_of_a_run(arrows: Path) -> None:
    """Its page names the accuracy on the test split, of which command it came, and each class."""
    pytest.importorskip("matplotlib")
    found = Evaluation.load(arrows / "run" / "test.json").model_copy(update={"command": "sepnas train it --test"})
    found.keep(arrows / "run")
    said("report", "--training", arrows / "run", "--out", arrows / "page.html")
    page = (arrows / "page.html").read_text()
    for text in ("Accuracy of the best epoch", "sepnas train it --test", found.date, "test accuracy of each class"):
        assert text in page


def test_mirror_images_of_a_folder_are_not_made_unasked(arrows: Path, tmp_path: Path) -> None:
    """The default recipe of a folder mirrors none, which is said; --flip does."""
    command = ("train", *NETWORK, "--data", f"folder:{arrows / 'images'}", "--epochs", 1)
    assert "images are not mirrored" in said(*command, "--out", tmp_path / "plain")
    assert "not mirrored" not in said(*command, "--out", tmp_path / "flipped", "--flip")
    flips = [read_checkpoint(tmp_path / run / LAST)[1]["identity"]["recipe"] for run in ("plain", "flipped")]
    assert [recipe["augmentation"]["flip"] for recipe in flips] == [False, True]
    assert Evaluation.load(tmp_path / "flipped" / "validation.json").mirrored_accuracy is None
    found = Evaluation.load(arrows / "run" / "validation.json")
    assert found.mirrored_accuracy == pytest.approx(1 - found.accuracy, abs=0.3)  # left is taken for right


@pytest.mark.parametrize(
    ("upright", "mirrored", "said"),
    [
        (0.9, 0.1, "train without flips"),
        (0.9, 0.88, "training with flips may be better"),
        (0.55, 0.5, ""),
        (0.9, None, ""),
    ],
)
def test_a_training_tells_whether_mirror_images_keep_their_class(
    upright: float, mirrored: float | None, said: str
) -> None:
    """What a network that saw none answers to them decides, where it has learned enough."""
    classes = tuple(EvaluatedClass(name=name, images=10, accuracy=upright) for name in "ab")
    found = Evaluation(
        split="validation", images=20, accuracy=upright, classes=classes, mirrored_accuracy=mirrored,
        content_sha256="", command="", date="",
    )  # fmt: skip
    assert said in found.about_mirroring()
    assert bool(said) == bool(found.about_mirroring())


def test_only_folders_are_not_mirrored() -> None:
    """Recipes by name, and those of the published data sets, are what they were."""
    assert default_recipe("cifar100") == RECIPES["cifar-fast"]
    assert default_recipe("cifar100").augmentation.flip
    assert default_recipe("folder:x") == RECIPES["cifar-fast"].mirroring(False)
    assert supernet_recipe(small_data(), None).augmentation.flip
    folder = replace(small_data(), name="folder:x")
    assert [supernet_recipe(folder, None, RecipeChanges(flip=flip)).augmentation.flip for flip in (None, True)] == [
        False,
        True,
    ]
    assert supernet_recipe(folder, RECIPES["paper"]).augmentation.flip


@pytest.mark.parametrize("option", ["--out", "--data", "--data-root", "--recipe", "--policy"])
def test_empty_values_are_refused(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable of the shell is not the current folder, nor a default."""
    monkeypatch.chdir(tmp_path)
    result = run("train", *NETWORK, *(() if option == "--out" else ("--out", "run")), option, "")
    assert result.exit_code == 2
    assert f"'{option}': is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_the_report_names_a_damaged_history(interrupted: Path, tmp_path: Path) -> None:
    """A run that is not finished has its page; a damaged line of its history is named."""
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    said("report", "--training", interrupted, "--out", page)
    assert "validation accuracy, epoch 1" in page.read_text()
    for name in ("architecture.json", "history.jsonl"):
        (tmp_path / name).write_bytes((interrupted / name).read_bytes()[:-1])
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write("\n{")
    assert "history.jsonl: line 2: " in error_of(SepnasError, "report", "--training", tmp_path, "--out", page)


def test_a_deployment_resizes_as_its_training_did(folder: Path, interrupted: Path, tmp_path: Path) -> None:
    """What training made of images of another size stands in the manifest, and `infer` makes the same of a file."""
    assert DataFacts.load(interrupted / "data.json").resize == "stretch"
    run_folder, options = tmp_path / "run", ("--image-size", 8, "--resize", "crop", "--epochs", 1)
    said("train", *NETWORK, "--data", f"folder:{folder}", "--out", run_folder, *options)
    said("export", run_folder, tmp_path / "out", "--engine", "torch")
    wanted = Manifest.load(tmp_path / "out" / "manifest.json").image
    assert wanted.resize == "crop"
    wide = tmp_path / "wide.png"
    Image.effect_noise((30, 20), 50).save(wide)
    found = {how: read_image(wide, "wide", wanted, how) for how in (None, "crop", "stretch")}
    assert np.array_equal(found[None], found["crop"])
    assert [Service(tmp_path / "out", resize=how).resize for how in (None, "stretch")] == ["crop", "stretch"]
    assert not np.array_equal(found[None], found["stretch"])
    with pytest.raises(DataError, match="30x20 pixels, the network reads 8x8"):
        read_image(wide, "wide", wanted, "no")


def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets torch's wait policy before anything loads torch; a value of the user's stays."""
    policies: list[str | None] = []
    monkeypatch.setattr("sepnas.cli.main.main", lambda: policies.append(os.environ.get("OMP_WAIT_POLICY")))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # noted, so that it is put back at the end
    monkeypatch.delenv("OMP_WAIT_POLICY")
    sepnas_command()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    sepnas_command()
    assert policies == ["PASSIVE", "ACTIVE"]
