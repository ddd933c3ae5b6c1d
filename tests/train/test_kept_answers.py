"""Learning from a teacher whose answers are kept: what they are, what they are tied to, and what they teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from sepnas import api
from sepnas.errors import CheckpointError, TrainingError
from sepnas.nets.crossings import Rounding
from sepnas.nets.trainable import TrainableGraph, load_trainable
from sepnas.train.augment import augment
from sepnas.train.batches import Batch
from sepnas.train.checkpoint import read_checkpoint
from sepnas.train.data import load_dataset, resize_images
from sepnas.train.evaluate import predict_logits
from sepnas.train.feature_gap import FeatureGap, last_maps
from sepnas.train.images import ImageData
from sepnas.train.kept_answers import KeptAnswers, load_kept_teacher
from sepnas.train.loop import train_network
from sepnas.train.recipe import Augmentation, Distillation, Recipe, RecipeChanges
from sepnas.train.steps import step_of

CPU = torch.device("cpu")
RECIPE = Recipe(
    name="taught", optimizer="adamw", epochs=2, batch_size=64, learning_rate=1e-2, augmentation=Augmentation(flip=True),
    distillation=Distillation(weight=0.8, temperature=2.0),
)  # fmt: skip


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an imported network that was fine-tuned on the digits."""
    folder = tmp_path_factory.mktemp("teacher")
    traits = {"mean": (0.5,), "std": (0.25,)}
    api.import_network("tests.train.tiny:Tiny", folder / "net", input_shapes=[(1, 8, 8)], traits=traits)
    plain = RECIPE.model_copy(update={"distillation": None, "epochs": 6})
    api.train(folder / "net", folder / "run", data="digits", recipe=plain)
    return folder / "run"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another network, with random weights and a normalisation of its own."""
    folder = tmp_path_factory.mktemp("student") / "net"
    traits = {"mean": (0.0,), "std": (1.0,)}
    api.import_network("tests.train.tiny:Tiny", folder, input_shapes=[(1, 8, 8)], traits=traits, seed=3)
    return folder


def test_answers_are_those_of_each_image_and_of_its_mirror(teacher: Path, digits: ImageData, tmp_path: Path) -> None:
    """Kept and looked up for a batch, they are what the teacher says of the pixels that the student sees."""
    found = load_kept_teacher(teacher, digits)
    answers = KeptAnswers([found], digits, mirrored=True)
    answers.prepare(tmp_path, CPU, silent)
    places, mirrored = torch.tensor([5, 900, 17, 5]), torch.tensor([True, False, True, False])
    seen = augment(digits.train.images[places], Augmentation(flip=True), torch.Generator(), mirrored)
    with torch.no_grad():
        wanted = load_trainable(teacher)(found.images.normalise(seen))
    batch = Batch(digits.normalise(seen), digits.train.labels[places], 4, places, mirrored)
    torch.testing.assert_close(answers.of(batch), wanted[None], rtol=1e-4, atol=1e-4)
    assert found.images.mean == (0.5,)


def test_answers_are_computed_once(teacher: Path, digits: ImageData, tmp_path: Path) -> None:
    """A second start reads them; one that was interrupted computes the rest only."""
    first = KeptAnswers([load_kept_teacher(teacher, digits)], digits, mirrored=False)
    starts: list[int] = []

    def stop_late(what: str, done: int, total: int) -> None:
        starts.append(done)
        if done:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sepnas.train.kept_answers.WRITE_S", -1)
        with pytest.raises(KeyboardInterrupt):
            first.prepare(tmp_path, CPU, stop_late)
    again: list[int] = []
    first.prepare(tmp_path, CPU, lambda what, done, total: again.append(done))
    assert starts == [0, 512]
    assert again == [512, 1024]
    once_more = KeptAnswers([load_kept_teacher(teacher, digits)], digits, mirrored=False)
    once_more.prepare(tmp_path, CPU, lambda what, done, total: pytest.fail("computed again"))
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2), 2, torch.tensor([3, 1000]))
    assert torch.equal(first.of(batch), once_more.of(batch))
    assert first.of(batch).shape == (1, 2, 10)


def test_answers_for_others_are_refused(teacher: Path, digits: ImageData, tmp_path: Path) -> None:
    """A file is tied to the teacher's weights and to the images."""
    KeptAnswers([load_kept_teacher(teacher, digits)], digits, mirrored=False).prepare(tmp_path, CPU, silent)
    other = load_kept_teacher(teacher, digits)
    with torch.no_grad():
        other.network.get_parameter("8.bias").add_(1)
    fewer = replace(digits, train=digits.train.take(torch.arange(100)))
    for answers in (
        KeptAnswers([other], digits, mirrored=False),
        KeptAnswers([load_kept_teacher(teacher, fewer)], fewer, mirrored=False),
        KeptAnswers([load_kept_teacher(teacher, digits)], digits, mirrored=True),
    ):
        with pytest.raises(CheckpointError, match=r"of another teacher than .*, or for other images; remove it"):
            answers.prepare(tmp_path, CPU, silent)


def test_the_loss_mixes_labels_and_answers(student: Path) -> None:
    """Weight and temperature are those of the recipe; without answers the labels alone count."""
    network = load_trainable(student)
    images, labels, taught = torch.randn(6, 1, 8, 8), torch.arange(6), torch.randn(2, 6, 10)
    step, generator = step_of(RECIPE), torch.Generator()
    own = functional.cross_entropy(network(images), labels)
    soft = torch.stack(
        [
            4 * functional.kl_div((network(images) / 2).log_softmax(1), (x / 2).softmax(1), reduction="batchmean")
            for x in taught
        ]
    ).mean()
    torch.testing.assert_close(step(network, images, labels, generator), own)
    torch.testing.assert_close(step(network, images, labels, generator, taught), 0.2 * own + 0.8 * soft)


def test_a_student_learns_from_answers_alone(teacher: Path, student: Path, digits: ImageData, tmp_path: Path) -> None:
    """With wrong labels and full weight of the teacher, a student whose head is sent int8 learns what it knows."""
    wrong = replace(digits, train=replace(digits.train, labels=(digits.train.labels + 1) % 10))
    recipe = RECIPE.model_copy(update={"epochs": 6, "distillation": Distillation(weight=1.0)})
    network = load_trainable(student)
    head = network.graph.nodes[-1].name
    rounded = TrainableGraph(network.graph, network.weights_by_name, {(head, "input"): Rounding("int8")})
    taught = [load_kept_teacher(teacher, wrong)]
    result = train_network(rounded, wrong, recipe, tmp_path / "run", teachers=taught, progress=False)
    assert result.best_accuracy > 0.5


def test_a_run_goes_on_with_the_same_teacher_only(teacher: Path, student: Path, tmp_path: Path) -> None:
    """Kept answers stay in the folder of the run, which resumes bit for bit and refuses another teacher."""
    out = tmp_path / "run"
    api.train(student, out, data="digits", recipe=RECIPE, teachers=[teacher], stop_after_s=0)
    kept = read_checkpoint(out / "teacher0.safetensors")[1]
    assert kept["done"] == 1079
    with pytest.raises(CheckpointError, match="belongs to another run: `teachers"):
        api.train(student, out, data="digits", recipe=RECIPE, teachers=[student], resume=True)
    assert api.train(student, out, data="digits", recipe=RECIPE, teachers=[teacher], resume=True).finished
    api.train(student, tmp_path / "whole", data="digits", recipe=RECIPE, teachers=[teacher])
    first, second = (load_trainable(run).state_dict() for run in (out, tmp_path / "whole"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_separable_networks_learn_from_imported_ones(teacher: Path, tmp_path: Path) -> None:
    """An imported network teaches a separable one, also beside a run that answers each batch, and the reverse."""
    options: dict[str, Any] = {"data": "digits", "changes": RecipeChanges(epochs=1)}
    api.train("resnext11_2x4d", tmp_path / "first", devices=2, teachers=[teacher], **options)
    both = [teacher, tmp_path / "first"]
    assert api.train("resnext11_2x4d", tmp_path / "second", devices=2, teachers=both, **options).finished
    assert api.train(teacher, tmp_path / "back", teachers=[tmp_path / "first"], **options).finished


def test_a_teacher_answers_in_its_own_image_size(teacher: Path, digits: ImageData, tmp_path: Path) -> None:
    """For larger or smaller images it answers the resized ones, and teaches a separable network that takes them."""
    images = load_dataset("digits", image_size=12)
    images = replace(images, train=images.train.take(torch.arange(64)))
    kept = load_kept_teacher(teacher, images)
    answers = KeptAnswers([kept], images, mirrored=False)
    answers.prepare(tmp_path, CPU, silent)
    seen = resize_images(images.train.images[:4], 8)
    expected = predict_logits(kept.network, seen, kept.images)
    found = answers.of(Batch(images.train.images[:4], images.train.labels[:4], 4, torch.arange(4)))
    torch.testing.assert_close(found[0], expected)
    options: dict[str, Any] = {"data": images, "changes": RecipeChanges(epochs=1)}
    assert api.train("resnext11_2x4d", tmp_path / "run", devices=2, teachers=[teacher], **options).finished


def test_teachers_that_do_not_fit_are_refused(teacher: Path, student: Path, digits: ImageData, tmp_path: Path) -> None:
    """Other classes, other sizes, mixed images and maps that cannot be compared are named."""
    few = replace(digits, classes=("one", *digits.classes[1:]))
    with pytest.raises(
        TrainingError, match=r"teacher .* knows 10 classes \('0', .* fine-tune it on these images first"
    ):
        load_kept_teacher(teacher, few)
    wide = replace(digits, train=replace(digits.train, images=torch.zeros(9, 1, 8, 9, dtype=torch.uint8)))
    with pytest.raises(TrainingError, match="takes images of 1x8x8, but those of 'digits' have 1x8x9"):
        load_kept_teacher(teacher, wide)
    mixed = RECIPE.model_copy(update={"mixup": 0.2})
    with pytest.raises(TrainingError, match="single images"):
        api.train(student, tmp_path / "run", data="digits", recipe=mixed, teachers=[teacher])
    maps = RECIPE.model_copy(update={"distillation": Distillation(features=1.0)})
    with pytest.raises(TrainingError, match="normalised alike, and no teacher is one"):
        api.train(student, tmp_path / "run", data="digits", recipe=maps, teachers=[teacher])
    with pytest.raises(TrainingError, match="there is no teacher"):
        api.train(student, tmp_path / "run", data="digits", recipe=RECIPE)


def test_maps_are_compared_with_those_of_the_same_name(teacher: Path, tmp_path: Path) -> None:
    """The last map of each size counts; the gap to itself is 0, and training with maps alone brings one nearer."""
    network = load_trainable(teacher)
    names = last_maps(network.graph)
    assert [network.graph.tensors[name].dims for name in names] == [(1, 16, 8, 8), (1, 32, 4, 4)]
    images = torch.randn(5, 1, 8, 8)
    gap = FeatureGap(network.graph, [load_trainable(teacher)], CPU)
    logits, none = gap.answer(network, images)
    assert float(none.detach()) == 0
    torch.testing.assert_close(logits, network(images))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    before = gap.answer(network, images)[1].item()
    assert before > 0
    recipe = RECIPE.model_copy(
        update={"epochs": 1, "learning_rate": 1e-3, "distillation": Distillation(weight=0, features=10.0)}
    )
    digits = load_dataset("digits")
    taught = load_kept_teacher(teacher, digits)
    train_network(network, taught.images, recipe, tmp_path / "run", teachers=[taught], progress=False)
    assert gap.answer(network.eval(), images)[1].item() < before
    assert not list((tmp_path / "run").glob("teacher*"))
