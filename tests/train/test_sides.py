"""Training images that grow: their sides, what the network and its teachers see, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sepnas import api
from sepnas.errors import SpecError, TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.supernet import Supernet
from sepnas.separable.architecture import named_architecture
from sepnas.train.checkpoint import LAST, new_network
from sepnas.train.data import load_dataset
from sepnas.train.distill import Teachers
from sepnas.train.dropout import draw_outage
from sepnas.train.evaluate import accuracy
from sepnas.train.recipe import Distillation, Recipe
from sepnas.train.sides import PIXELS, Sides, scaled, sides_of
from sepnas.train.steps import step_of
from sepnas.train.supernet import SandwichStep
from sepnas.train.tuning import prepare_tuning
from tests.separable.test_space import SPACE
from tests.train.test_train import same_tensors, small_architecture, small_data, train

GROWING = Recipe(epochs=4, batch_size=25, learning_rate=0.05, first_size=0.5)
GROWN = [8, 12, 16, 16]
"""The sides of ``GROWING`` by epoch, for images of 16 pixels."""


class Seen:
    """Keeps the sides of the images that a network takes, in training and in evaluation, without repetitions."""

    def __init__(self, network: nn.Module) -> None:
        self.sides: dict[bool, list[int]] = {True: [], False: []}
        network.register_forward_pre_hook(self._look)

    def _look(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sides, side = self.sides[network.training], inputs[0].shape[-1]
        if sides[-1:] != [side]:
            sides.append(side)


@settings(max_examples=200, deadline=None)
@given(st.integers(4, 400), st.floats(0.05, 1), st.integers(1, 300), st.sampled_from([4, 8, 16]))
def test_sides_rise_by_equal_steps_to_the_full_one(full: int, first: float, epochs: int, pixels: int) -> None:
    """They begin at the share, never fall, and are full from seven tenths of the epochs on, so always in the last."""
    sides = [Sides(full, first, epochs, pixels).of(epoch) for epoch in range(1, epochs + 1)]
    growing = 7 * epochs // 10
    assert sides == sorted(sides)
    assert set(sides[growing:]) == {full}
    for done, side in enumerate(sides[:growing]):
        exact = full * (first + (1 - first) * done / growing)
        assert side == full or side % pixels == 0
        assert abs(side - exact) <= pixels / 2 or side == min(pixels, full)


def test_images_of_the_full_share_have_their_own_side() -> None:
    """Without growth no epoch rounds the side."""
    assert {Sides(29, 1.0, 5).of(epoch) for epoch in range(1, 6)} == {29}


def test_sides_suit_the_stem() -> None:
    """A stem of patches takes whole ones: the sides are multiples of its stride."""
    patches = named_architecture("resnet18_4x4", 2, image_size=64, stem="patch", stem_stride=8)
    found = {sides_of(GROWING, 64, patches).of(epoch) for epoch in range(1, 5)}
    assert found == {32, 48, 64}
    assert sides_of(GROWING, 64, small_architecture(image_size=64)).pixels == PIXELS


def test_scaled_images_keep_their_layout_and_what_they_show() -> None:
    """An image of one colour stays that; an image that has the side is the same tensor."""
    colours_BCHW = torch.rand(3, 2, 1, 1).expand(3, 2, 12, 12).contiguous(memory_format=torch.channels_last)
    small = scaled(colours_BCHW, 8)
    torch.testing.assert_close(small, colours_BCHW[:, :, :8, :8])
    assert small.is_contiguous(memory_format=torch.channels_last)
    assert scaled(colours_BCHW, 12) is colours_BCHW


@pytest.mark.parametrize("outage", [False, True])
def test_a_network_takes_images_of_other_sides(outage: bool) -> None:
    """Its weights answer as in the network that was made for them, quantised messages and lost ones included."""
    policy = small_architecture().policy.written_in("int4", "learned")
    network: SeparableNetwork = new_network(small_architecture(image_size=16, policy=policy.to_data()), 1).eval()
    other = new_network(small_architecture(image_size=12, policy=policy.to_data()), 2).eval()
    other.load_state_dict(network.state_dict())
    images = torch.randn(6, 1, 12, 12)
    lost = [draw_outage(x.plan, 6, torch.Generator().manual_seed(3), 0.0, 0.5 * outage) for x in (network, other)]
    with torch.no_grad():
        assert torch.equal(network(images, outage=lost[0]), other(images, outage=lost[1]))
        assert network(torch.randn(6, 1, 16, 16)).shape == (6, 3)
    with pytest.raises(SpecError, match="image_size"):
        network(torch.randn(6, 1, 2, 2))


def test_training_sees_growing_images_and_validation_full_ones(tmp_path: Path) -> None:
    """The network trains on the sides of its epochs and is validated at the data's own."""
    network = new_network(small_architecture(image_size=16), 1)
    seen = Seen(network)
    train(tmp_path, GROWING, network=network, data=small_data(size=16))
    assert seen.sides == {True: sorted(set(GROWN)), False: [16]}


@pytest.mark.parametrize("switch", [{}, {"cutmix": 1.0, "ema_decay": 0.9}, {"message_dropout": 0.3}])
def test_a_run_with_growing_images_resumes_bit_for_bit(switch: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after each epoch, it ends with the tensors of an unbroken one, also beside other switches."""
    recipe = Recipe.from_data(GROWING.to_data() | switch)

    def run(folder: str, **options: Any) -> Any:
        network = new_network(small_architecture(image_size=16), 1)
        return train(tmp_path / folder, recipe, network=network, data=small_data(size=16), **options)

    run("whole")
    for _ in range(recipe.epochs):
        run("parts", resume=True, stop_after_s=0)
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST)


def test_supernets_train_on_growing_images(tmp_path: Path) -> None:
    """All architectures of a step see the epoch's side."""
    torch.manual_seed(0)
    network, data = Supernet(SPACE), load_dataset("digits")
    seen = Seen(network)
    recipe = Recipe(epochs=2, batch_size=len(data.train), learning_rate=0.05, first_size=0.5)
    train(tmp_path, recipe, network=network, data=data, step=SandwichStep(SPACE), validate=lambda supernet: 0.5)
    assert seen.sides[True] == [4, 8]


def test_digits_are_learned_from_growing_images(tmp_path: Path) -> None:
    """The network that saw small images first knows the full ones at the end."""
    data = load_dataset("digits", image_size=16)
    network = new_network(small_architecture(image_size=16, num_classes=10), 0)
    recipe = Recipe(epochs=4, batch_size=32, learning_rate=0.1, first_size=0.5)
    train(tmp_path, recipe, network=network, data=data)
    assert accuracy(network, data.val, data) > 0.7


TAUGHT = Recipe.from_data(GROWING.to_data() | {"distillation": {"weight": 0.7}})


def test_teachers_see_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that answers each batch sees full size, whatever the student sees."""
    student, teacher = (new_network(small_architecture(image_size=16), seed) for seed in (1, 2))
    seen, told, loss_of = Seen(student), set(), Teachers.loss

    def looked(self: Teachers, own: Tensor, logits: Tensor, stages: Any, images: Tensor) -> Tensor:
        told.add(images.shape[-1])
        return loss_of(self, own, logits, stages, images)

    monkeypatch.setattr(Teachers, "loss", looked)
    train(tmp_path, TAUGHT, network=student, data=small_data(size=16), teachers=[teacher])
    assert told == {16}
    assert seen.sides[False] == [16]


def test_the_loss_from_a_teacher_is_that_of_whole_images() -> None:
    """With full weight, a student loses nothing against a teacher whose answer to the whole images it gives."""
    student, teacher = (new_network(small_architecture(image_size=16), seed).eval() for seed in (1, 2))
    settings = Distillation(weight=1.0, temperature=1.0)
    teachers = Teachers([teacher], settings, student.architecture, torch.device("cpu"))
    step = step_of(Recipe(epochs=1, distillation=settings), teachers)
    whole, labels = torch.randn(5, 1, 16, 16), torch.zeros(5, dtype=torch.int64)
    small = scaled(whole, 8)
    with torch.no_grad():
        found = step(student, small, labels, torch.Generator(), None, whole)
        answers, wanted = student(small).log_softmax(1), teacher(whole).log_softmax(1)
    torch.testing.assert_close(found, (wanted.exp() * (wanted - answers)).sum(1).mean())


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "tiny"
    traits = {"mean": (0.5,), "std": (0.25,)}
    api.import_network("tests.train.tiny:Tiny", folder, input_shapes=[(1, 8, 8)], traits=traits)
    return folder


def test_kept_answers_serve_a_student_of_small_images(imported: Path, tmp_path: Path) -> None:
    """An imported network, which takes one size, teaches a separable one whose images grow."""
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=0.05, first_size=0.5, distillation=Distillation(weight=0.5))
    done = api.train("resnext11_2x4d", tmp_path / "run", devices=2, data="digits", recipe=recipe, teachers=[imported])
    assert done.finished


def test_imported_networks_refuse_growing_images(imported: Path, tmp_path: Path) -> None:
    """Their shapes are fixed: the recipe is refused before anything is written, also for a module without a graph."""
    with pytest.raises(TrainingError, match=r"`first_size` is 0\.5, but only separable networks .* set it to 1"):
        prepare_tuning(imported, load_dataset("digits"), recipe=GROWING)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(TrainingError, match="only separable networks take images of several sizes"):
        train(tmp_path / "run", GROWING, network=plain)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "architecture", "options", "named"),
    [
        ({"distillation": Distillation(features=1.0)}, {}, {}, "`distillation.features` compares them; set"),
        ({}, {}, {"compiled": True}, "steps with `first_size` are not compiled; train uncompiled"),
        ({"device_dropout": 0.1, "first_size": 0.25}, {}, {}, "images of 4 pixels a side; .* or raise `first_size`"),
        ({"batch_size": 1, "first_size": 0.25}, {}, {}, "of one image, .* of 4 pixels a side; .* raise `first_size`"),
        (
            {"first_size": 0.25},
            {"backbone": "vgg", "depth": 11, "parts": [{"bottleneck_width": 2}], "policy": {}},
            {},
            "`first_size` 0.25 makes images of 4 pixels a side, which the network does not take: .*; raise",
        ),
    ],
)
def test_what_cannot_be_small_is_refused(
    recipe: dict[str, Any], architecture: dict[str, Any], options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """The message names the switch and the way out, and nothing is written."""
    network = new_network(small_architecture(image_size=16, **architecture), 1)
    teachers = [new_network(network.architecture, 2)] if "distillation" in recipe else []
    changed = GROWING.model_copy(update=recipe)
    with pytest.raises(TrainingError, match=named):
        train(tmp_path / "run", changed, network=network, data=small_data(size=16), teachers=teachers, **options)
    assert not (tmp_path / "run").exists()
