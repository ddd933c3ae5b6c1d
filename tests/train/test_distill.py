"""Learning from teachers: what the loss is, what it ignores, and that a run goes on with the same ones only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sepnas.errors import CheckpointError, SepnasError, TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import DevicePart
from sepnas.train.checkpoint import LAST, new_network
from sepnas.train.distill import Teachers, attention_gap, softened_divergence
from sepnas.train.recipe import Distillation, Recipe
from sepnas.train.steps import step_of
from tests.cli.test_train_command import error_of, said
from tests.train.test_data import make_folder
from tests.train.test_train import same_tensors, small_architecture, small_data, train

RECIPE = Recipe(epochs=2, batch_size=25, learning_rate=0.05, distillation=Distillation(weight=0.7, features=2.0))


def teacher(seed: int = 7, **changes: Any) -> SeparableNetwork:
    """A wider network without devices beside it."""
    part = DevicePart(bottleneck_width=3, output_channels=6)
    values = {"parts": [part], "policy": {"points": []}} | changes
    return new_network(small_architecture(**values), seed).eval()


def loss_of(settings: Distillation, student: SeparableNetwork, by: SeparableNetwork, labels: Tensor) -> Tensor:
    images = small_data().normalise(small_data().train.images[: len(labels)])
    teachers = Teachers([by], settings, student.architecture, torch.device("cpu"))
    return step_of(Recipe(epochs=1, distillation=settings), teachers)(student, images, labels, torch.Generator())


def test_a_network_has_nothing_to_learn_from_itself() -> None:
    """Both losses are 0 against a copy, and above it against another network."""
    student, labels = new_network(small_architecture(), 1).eval(), torch.zeros(8, dtype=torch.int64)
    copy = new_network(small_architecture(), 1)
    settings = Distillation(weight=1.0, features=1.0)
    assert loss_of(settings, student, copy, labels).item() == pytest.approx(0, abs=1e-6)
    for one in (Distillation(weight=1.0), Distillation(weight=0, features=1.0)):
        gap = loss_of(one, student, teacher(), labels) - (1 - one.weight) * loss_of(
            Distillation(weight=1e-9), student, teacher(), labels
        )
        assert gap.item() > 1e-3


def test_with_full_weight_labels_do_not_count() -> None:
    """The loss is that of the teacher's answers, whatever the labels say; with half of it, half of the labels'."""
    student = new_network(small_architecture(), 1).eval()
    zeros, ones = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64)
    whole, half = Distillation(weight=1.0), Distillation(weight=0.5)
    torch.testing.assert_close(loss_of(whole, student, teacher(), zeros), loss_of(whole, student, teacher(), ones))
    with torch.inference_mode():
        logits = student(small_data().normalise(small_data().train.images[:8]))
    by_labels = torch.nn.functional.cross_entropy(logits, ones)
    expected = 0.5 * by_labels + 0.5 * loss_of(whole, student, teacher(), ones)
    torch.testing.assert_close(loss_of(half, student, teacher(), ones), expected)


def test_the_divergence_is_zero_for_equal_answers_and_has_the_gradient_of_cross_entropy() -> None:
    """At high temperatures its gradient tends to the difference of the logits over the classes (arXiv 1503.02531)."""
    taught = torch.tensor([[3.0, -1.0, 0.5]])
    assert softened_divergence(taught + 5, taught, 2.0).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([[0.2, 0.1, -0.3]], requires_grad=True)
    softened_divergence(logits, taught, 1e3).backward()
    centred = (logits - logits.mean()) - (taught - taught.mean())
    torch.testing.assert_close(logits.grad, (centred / 3).detach(), atol=2e-3, rtol=0)


def test_attention_compares_networks_of_any_width() -> None:
    """Maps that differ by a factor only, or by how channels are dealt out to devices, are the same."""
    features = torch.rand(2, 6, 4, 4)
    assert attention_gap([[features]], [[3 * features[:, :2], 3 * features[:, 2:]]]).item() == pytest.approx(
        0, abs=1e-6
    )
    assert attention_gap([[features]], [[features.flip(3)]]).item() > 1e-3


def test_a_taught_run_resumes_with_the_same_teacher_only(tmp_path: Path) -> None:
    """Bit for bit with it; another one, or none, is refused."""
    train(tmp_path / "whole", RECIPE, teachers=[teacher()])
    for _ in range(2):
        train(tmp_path / "parts", RECIPE, teachers=[teacher()], resume=True, stop_after_s=0)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)
    with pytest.raises(CheckpointError, match=r"`teachers\.0` is "):
        train(tmp_path / "parts", RECIPE, teachers=[teacher(8)], resume=True)
    with pytest.raises(TrainingError, match="the recipe has `distillation`, but there is no teacher"):
        train(tmp_path / "parts", RECIPE, resume=True)


def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    """Trained on its answers alone it agrees with the teacher more often than one that saw labels."""
    data, wise = small_data(), teacher()
    images = data.normalise(data.train.images)
    with torch.inference_mode():
        wanted = wise(images).argmax(1)
    agreement = {}
    for name, weight in (("taught", 1.0), ("labels", 1e-9)):
        student = new_network(small_architecture(), 1)
        recipe = Recipe(epochs=25, batch_size=10, learning_rate=0.05, distillation=Distillation(weight=weight))
        train(tmp_path / name, recipe, network=student, teachers=[wise])
        with torch.inference_mode():
            agreement[name] = (student.eval()(images).argmax(1) == wanted).double().mean().item()
    assert agreement["taught"] > agreement["labels"] + 0.1


@pytest.mark.parametrize(
    ("changes", "features", "named"),
    [
        ({"num_classes": 4}, 0.0, "`num_classes` 4, the network to train has 3"),
        ({"image_size": 16}, 0.0, "`image_size` 16"),
        ({"stem_stride": 2}, 1.0, "`stem_stride` 2, .* or set `features` to 0"),
        (
            {"backbone": "mobilenet-v2", "depth": 23, "parts": [DevicePart(bottleneck_width=3, output_channels=3)]},
            1.0,
            "feature maps of 8, 8, 4, 2, 2, 1, 1 pixels a side .* has 8, 4, 2; choose another teacher",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(changes: dict[str, Any], features: float, named: str) -> None:
    """The field is named, with both values."""
    with pytest.raises(TrainingError, match=named):
        Teachers([teacher(**changes)], Distillation(features=features), small_architecture(), torch.device("cpu"))


def test_features_of_lost_devices_are_not_compared(tmp_path: Path) -> None:
    """A device that is dropped has none of some images: the two switches are refused together."""
    recipe = RECIPE.model_copy(update={"device_dropout": 0.2})
    student = new_network(small_architecture(image_size=16), 1)
    with pytest.raises(TrainingError, match=r"`device_dropout` .*`distillation.features`.*set one of the two to 0"):
        train(tmp_path / "run", recipe, network=student, data=small_data(size=16), teachers=[teacher(image_size=16)])
    answers = recipe.model_copy(update={"distillation": Distillation(weight=0.7)})
    done = train(
        tmp_path / "run", answers, network=student, data=small_data(size=16), teachers=[teacher(image_size=16)]
    )
    assert done.finished


def test_teachers_at_the_terminal(tmp_path: Path) -> None:
    """`--teacher RUN` trains with it; a run that is not there, or on other classes, is named."""
    folder = make_folder(tmp_path / "images", size=8)
    data = ("--data", f"folder:{folder}", "--epochs", 1, "--threads", 1)
    said("train", "resnext11_2x4d", *data, "--out", tmp_path / "teacher")
    student = ("train", "resnext11_2x4d", "-n", 2)
    said(*student, *data, "--out", tmp_path / "student", "--teacher", tmp_path / "teacher")
    assert (
        "no such checkpoint"
        in error_of(SepnasError, *student, *data, "--out", tmp_path / "other", "--teacher", tmp_path / "nothing")
        or not (tmp_path / "other").exists()
    )
    digits = ("--data", "digits", "--epochs", 1, "--out", tmp_path / "digits")
    message = error_of(TrainingError, *student, *digits, "--teacher", tmp_path / "teacher")
    assert "knows 2 classes of" in message
    assert not (tmp_path / "digits").exists()
