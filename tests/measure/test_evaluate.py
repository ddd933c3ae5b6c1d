"""`evaluate`: runs, imported networks and deployments, what is kept beside them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sepnas import api
from sepnas.cli.evaluate import _remarks
from sepnas.deployment.network_facts import ImageInput
from sepnas.deployment.serial import deployed_plan
from sepnas.errors import (
    CheckpointError,
    DataError,
    DeploymentError,
    PeerUnreachableError,
    SepnasError,
    SpecError,
    StorageError,
)
from sepnas.local.processes import LocalWorkers
from sepnas.measure.evaluation import split_images
from sepnas.measure.evaluation.folder_split import folder_split
from sepnas.nets.separable import SeparableNetwork
from sepnas.partition.schemes.registry import partition
from sepnas.runtime.client.images import load_images, read_images
from sepnas.spec.evaluation import EVALUATION_NAME, ClassifierEvaluation, EvaluationFile
from sepnas.spec.hosts import Hosts
from sepnas.train.checkpoint import BEST, write_checkpoint
from sepnas.train.data import load_dataset
from tests.cli.test_train_command import error_of, said
from tests.cli.test_train_command import run as command
from tests.helpers_evaluation import CLASSES, make_images, write_imported, write_run
from tests.helpers_runtime import free_ports, threads
from tests.runtime.test_partitioned import network_of
from tests.train.test_data import make_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each of the network's classes, without splits."""
    return make_images(tmp_path_factory.mktemp("evaluated") / "images")


@pytest.fixture(scope="module")
def run(network: SeparableNetwork, images: Path) -> Path:
    return write_run(network, images.parent / "run", "folder:trained-on")


@pytest.fixture(scope="module")
def hosts(exported: Path) -> Iterator[Hosts]:
    with threads(exported) as found:
        yield found


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def kept(folder: Path) -> tuple[ClassifierEvaluation, ...]:
    return EvaluationFile.load(folder / EVALUATION_NAME).evaluations


def test_a_run_is_evaluated_by_its_network(copied: Path, images: Path, exported: Path, hosts: Hosts) -> None:
    """Predictions are those of the network on the files as `infer` reads them; the evaluation lies in the run."""
    found = api.evaluate(copied, data=f"folder:{images}")
    files = sorted(images.glob("*/*.png"))
    with api.Session(exported, hosts) as session:
        logits = session.infer(load_images(files, session.manifest))
    labels = np.array([CLASSES.index(path.parent.name) for path in files])
    assert found.scores.accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    assert sum(images for _, _, images in found.scores.confusions) == (logits.argmax(1) != labels).sum()
    assert (found.kind, found.split, found.images, found.through) == ("run", "whole", 20, "process")
    assert kept(copied) == (found,)


def test_devices_and_one_process_predict_the_same(
    run: Path, exported: Path, images: Path, hosts: Hosts, tmp_path: Path
) -> None:
    """Through the workers every image gets the class that the whole network gives it, and the same scores."""
    out = tmp_path / "e.json"
    alone = api.evaluate(run, data=f"folder:{images}", out=out)
    found = api.evaluate(exported, data=f"folder:{images}", devices=hosts, compare=run, out=out)
    assert found.agreement is not None
    assert str(found.agreement) == f"20 of 20 images get the same class from {run} in one process"
    assert found.agreement.largest_difference < 1e-5
    assert (found.through, found.plan, found.num_devices) == ("devices", "default", 2)
    assert found.scores.confusions == alone.scores.confusions
    assert found.scores.negative_log_likelihood == pytest.approx(alone.scores.negative_log_likelihood, rel=1e-5)
    assert found.content_sha256 == alone.content_sha256
    check_bytes(exported, found)
    page = tmp_path / "page.html"
    said("report", "--evaluation", out, "--out", page)
    assert str(found.bytes_words) in page.read_text()
    assert f"counted: {found.bytes_words}" in list(_remarks(found))


def check_bytes(deployment: Path, found: ClassifierEvaluation) -> None:
    """The bytes of all images are those of the plan, images as one byte for each value."""
    plan = deployed_plan(deployment, found.plan)
    assert found.exchanged is not None
    assert found.exchanged.payload_bytes == plan.payload_bytes(found.images) > 0
    assert found.exchanged.input_bytes == plan.input_bytes(found.images) > 0
    assert found.exchanged.total_bytes == plan.total_bytes(found.images)


def test_an_imported_network_is_evaluated_alone_and_split(tmp_path: Path) -> None:
    """An imported network, and a deployment of it by rows; its classes have no names, so folders have indices."""
    folder = write_imported(network_of(), tmp_path / "network")
    data = f"folder:{make_images(tmp_path / 'images', ('4', '0'), 3, 13, 'RGB')}"
    alone = api.evaluate(folder, data=data)
    assert (alone.classes_in_data, alone.num_classes, alone.matched_by) == (2, 5, "name")
    assert alone.scores.present_accuracy is not None
    api.export(folder, tmp_path / "d", plan=partition(network_of().graph, "rows", [1, 1]), engines=["torch"])
    with threads(tmp_path / "d") as hosts:
        found = api.evaluate(tmp_path / "d", data=data, devices=hosts, compare=folder)
    assert found.agreement is not None
    assert (found.agreement.same, found.scores.accuracy) == (6, alone.scores.accuracy)
    assert found.scores.calibration_error == pytest.approx(alone.scores.calibration_error, abs=1e-4)
    assert found.scores.confusions == alone.scores.confusions
    check_bytes(tmp_path / "d", found)
    assert kept(tmp_path / "d") == (found,)


def test_data_are_checked_before_devices_are_asked(exported: Path, run: Path, images: Path, tmp_path: Path) -> None:
    """Bad data, addresses or networks to compare with are named while no device answers, and no worker is started."""
    nobody = Hosts.on([f"127.0.0.1:{port}" for port in free_ports(2)]).save(tmp_path / "hosts.yaml")
    given = ("--data", f"folder:{images}", "--out", tmp_path / "e.json")
    other = ("--data", f"folder:{make_images(tmp_path / 'others', ('cat',))}", "--out", tmp_path / "e.json")
    reach = ("--devices", nobody)
    assert "no such folder" in error_of(DataError, "evaluate", exported, *reach, "--data", f"folder:{tmp_path / 'no'}")
    assert "are none of the network's 5: 'cat'" in error_of(DataError, "evaluate", exported, *reach, *other)
    assert "are none of the network's 5: 'cat'" in error_of(DataError, "evaluate", exported, "--local", *other)
    assert "no.yaml" in error_of(SpecError, "evaluate", exported, "--devices", tmp_path / "no.yaml", *other)
    assert "no plan 'fast'" in error_of(SpecError, "evaluate", exported, *reach, *given, "--plan", "fast")
    assert "so --local does not apply" in error_of(SpecError, "evaluate", run, "--local", *given)
    assert "device 0" in error_of(PeerUnreachableError, "evaluate", exported, *reach, *given)
    assert not (tmp_path / "e.json").exists()


def test_the_splits_are_those_of_training(tmp_path: Path) -> None:
    """Files are chosen as a training on the folder chooses them, also where validation is held out of `train`."""
    root = make_folder(tmp_path / "images", ("train", "val", "test"))
    data = load_dataset(f"folder:{root}", root=tmp_path / "cache")
    for split, part in (("validation", data.val), ("test", data.test), ("train", data.train)):
        found = folder_split(root, split)  # type: ignore[arg-type]
        assert (found.split, found.classes, list(found.labels)) == (split, ("cat", "dog"), part.labels.tolist())
    (root / "val").rename(tmp_path / "val")
    data = load_dataset(f"folder:{root}", root=tmp_path / "cache")
    wanted = data.val.images.flatten(1).tolist()
    files = folder_split(root, "validation").files
    read = read_images(files, ImageInput(channels=1, height=8, width=8, mean=(0,), std=(1,)))
    assert [np.ravel(each).tolist() for each in read] == wanted  # type: ignore[arg-type]
    assert len(folder_split(root, "train").files) == len(data.train)


def test_a_later_evaluation_replaces_the_same_one(copied: Path, images: Path, network: SeparableNetwork) -> None:
    """The file has one entry for each split and way of computing; other weights make all of them void."""
    data = f"folder:{images}"
    first = api.evaluate(copied, data=data, limit=7)
    assert (first.images, first.images_in_split, first.data_words[:13]) == (7, 20, "7 of 20 image")
    assert [each.images for each in first.scores.classes if each.images] == [2, 1, 2, 1, 1]
    other = make_images(copied.parent / "others", CLASSES[1:3], 2)
    api.evaluate(copied, data=f"folder:{other}")
    api.evaluate(copied, data=data)
    assert [(each.data, each.images) for each in kept(copied)] == [(f"folder:{other}", 4), (data, 20)]
    changed = {name: x + 1 if x.is_floating_point() else x for name, x in network.state_dict().items()}
    write_checkpoint(copied / BEST, changed, {})
    api.evaluate(copied, data=data)
    assert len(kept(copied)) == 1


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("cat", "dog"), "2 of its 2 classes are none of the network's 5: 'cat', 'dog'; the network's are 'class 0'"),
        (("0", "1"), "2 of its 2 classes are none of the network's 5"),
        ((), "is empty; expected a folder for each class"),
    ],
)
def test_data_of_other_classes_are_refused(run: Path, tmp_path: Path, names: tuple[str, ...], error: str) -> None:
    """Classes that a run does not know are named; nothing is written."""
    (tmp_path / "images").mkdir()
    make_images(tmp_path / "images", names)
    with pytest.raises(DataError, match=error):
        api.evaluate(run, data=f"folder:{tmp_path / 'images'}", out=tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_an_image_that_cannot_be_read_is_named(copied: Path, tmp_path: Path) -> None:
    """A file that is no image is found by its head, a truncated one when it is read; no evaluation is left behind."""
    root = make_images(tmp_path / "images", side=64)
    bad = root / "class 3" / "1.png"
    whole = bad.read_bytes()
    for content, error in ((b"no image", "is not an image that can be read"), (whole[:-2000], "cannot be read as an")):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=f"{bad}: {error}"):
            api.evaluate(copied, data=f"folder:{root}", resize="stretch")
    bad.write_bytes(whole)
    with pytest.raises(DataError, match="is 64x64 pixels, the network reads 8x8"):
        api.evaluate(copied, data=f"folder:{root}")
    assert not (copied / EVALUATION_NAME).exists()
    assert api.evaluate(copied, data=f"folder:{root}", resize="stretch").images == 20


def test_a_stop_in_the_middle_leaves_nothing(copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while images are read keeps the earlier evaluation as it was, and no partial file."""
    api.evaluate(copied, data=f"folder:{images}")
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(split_images, "read_image", stop)
    with pytest.raises(KeyboardInterrupt):
        api.evaluate(copied, data=f"folder:{images}")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_damaged_file_is_found_before_anything_is_computed(run: Path, tmp_path: Path) -> None:
    """A file that the evaluation could not be added to is named first, and stays as it is."""
    (tmp_path / "e.json").write_text("{")
    with pytest.raises(SpecError, match=r"e\.json: not valid JSON"):
        api.evaluate(run, data="folder:nowhere", out=tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == "{"


def test_folders_of_another_kind_are_refused(copied: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    """A run without a checkpoint, a folder that is none, options of devices for a run, and missing devices."""
    data = f"folder:{images}"
    cases: list[tuple[type[SepnasError], str, Path, dict[str, object]]] = [
        (SpecError, "is no folder of sepnas; name the folder of a training run", images, {}),
        (SpecError, "is no deployment, so `plan` does not apply", copied, {"plan": "default"}),
        (SpecError, "`split` must be one of", copied, {"split": "val"}),
        (SpecError, "`limit` must be an integer in", copied, {"limit": 0}),
        (DataError, "has no folder `test`, and no other splits", copied, {"split": "test"}),
        (SpecError, "has no plan 'fast'; its plans are default", exported, {"plan": "fast"}),
        (
            PeerUnreachableError,
            "device 0",
            exported,
            {"devices": Hosts.on([f"127.0.0.1:{port}" for port in free_ports(2)])},
        ),
        (StorageError, "cannot be written", copied, {"out": images / "class 0" / "0.png" / "e.json"}),
    ]
    for kind, message, folder, options in cases:
        with pytest.raises(kind, match=message):
            api.evaluate(folder, data=data, **{"out": tmp_path / "e.json", **options})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no data set is named"):
        api.evaluate(exported)
    (copied / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no finished epoch to evaluate: best\.safetensors is missing"):
        api.evaluate(copied, data=data)


def test_a_deployment_of_another_network_is_not_compared(
    exported: Path, images: Path, hosts: Hosts, tmp_path: Path
) -> None:
    """The network to compare with is the one that was exported; another one is found by its weights."""
    other = write_imported(network_of(), tmp_path / "network")
    with pytest.raises(DeploymentError, match=f"was not exported from {other}"):
        api.evaluate(exported, data=f"folder:{images}", devices=hosts, compare=other, out=tmp_path / "e.json")


def test_the_command_line_tells_what_was_measured(copied: Path, images: Path, tmp_path: Path) -> None:
    """A table, remarks, and the file; as JSON the document's entry; options that exclude each other are refused."""
    output = said("evaluate", copied, "--data", f"folder:{images}")
    for text in ("accuracy", "expected calibration error", "mostly taken for", f"written: {copied / EVALUATION_NAME}"):
        assert text in output
    data = json.loads(said("evaluate", copied, "--data", f"folder:{images}", "--json", "--out", tmp_path / "e.json"))
    assert data == EvaluationFile.load(tmp_path / "e.json").to_data()["evaluations"][0]
    assert command("evaluate", copied, "--local", "--insecure").exit_code == 2
    assert "is no deployment" in error_of(SpecError, "evaluate", copied, "--devices", "hosts.yaml")
    page = tmp_path / "page.html"
    said("report", "--evaluation", copied, "--out", page)
    assert "Confusion matrix of all classes" in page.read_text()


@pytest.mark.slow
def test_local_worker_processes_predict_as_one_process(run: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    """`--local` starts a process for each device; all images get the same class as in one process."""
    output = said(
        "evaluate", exported, "--local", "--data", f"folder:{images}", "--compare", run, "--out", tmp_path / "e.json"
    )
    assert "20 of 20 images get the same class from" in output
    assert "2 devices, plan default" in output
    with LocalWorkers(exported, 2) as workers:
        listed = workers.hosts.save(tmp_path / "hosts.yaml")
        again = said(
            "evaluate", exported, "--devices", listed, "--data", f"folder:{images}", "--out", tmp_path / "e.json"
        )
    assert "2 devices, plan default" in again
