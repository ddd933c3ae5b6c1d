"""Fine-tuning of separated networks: messages are rounded in training, and the run's folder is separated alike."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepnas import api
from sepnas.errors import CheckpointError, SpecError, TrainingError
from sepnas.nets.graph import load_graph_network
from sepnas.nets.partitioned import load_partitioned
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.nets.trainable import TrainableGraph, load_trainable
from sepnas.plan.document import load_plan
from sepnas.plan.schedule import schedule
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.recipe import RECIPES, Distillation, RecipeChanges
from sepnas.train.separated import SeparatedTuning
from sepnas.train.source import DataSource
from sepnas.train.tuning import prepare_tuning
from tests.train.test_data import make_folder
from tests.train.test_tuning import RECIPE as FINETUNE
from tests.train.test_tuning import few_classes

RECIPE = RECIPES["separate"].changed("quick", epochs=2, learning_rate=5e-3, precision="fp32").mirroring(False)
SEPARATION = {"devices": 3, "budget": 0.01, "wire": "int4"}
DIGITS = DataSource("digits")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """The images as the network wants them."""
    return replace(load_dataset("digits"), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows the digits."""
    folder = tmp_path_factory.mktemp("original")
    traits = {"mean": (0.5,), "std": (0.25,)}
    api.import_network("tests.train.tiny:Tiny", folder / "tiny", input_shapes=[(1, 8, 8)], traits=traits)
    api.train(folder / "tiny", folder / "run", data="digits", recipe=FINETUNE, changes=RecipeChanges(epochs=10))
    return folder / "run"


@pytest.fixture(scope="module")
def separated(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("separated") / "separated"
    api.separate(original, folder, data=DIGITS, images=64, **SEPARATION)
    return folder


@pytest.fixture(scope="module")
def run(original: Path, separated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that learned from the original."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    api.train(separated, out, data="digits", recipe=RECIPE, teachers=[original])
    return out


def best_accuracy(run: Path) -> float:
    lines = next(run.glob("history*")).read_text().splitlines()
    return max(float(line.split('"val_accuracy": ')[1].split(",")[0]) for line in lines)


def test_the_folder_of_a_run_is_separated_alike(separated: Path, run: Path) -> None:
    """The groups and the plan are those of its start, file for file; the weights are others."""
    for name in ("separation.json", "plan.json"):
        assert (run / name).read_bytes() == (separated / name).read_bytes()
    before, after = (load_graph_network(folder) for folder in (separated, run))
    assert before.graph.nodes == after.graph.nodes
    assert any(not torch.equal(x, before.weights_by_name[name]) for name, x in after.weights_by_name.items())


def test_the_recorded_accuracy_is_that_of_the_rounded_network(run: Path, digits: ImageData) -> None:
    """Of the network as its devices compute it: one that does not round its messages answers otherwise."""
    network = load_trainable(run)
    assert len(network.crossings) > 0
    assert accuracy(network, digits.val, digits) == best_accuracy(run)
    found = schedule(load_plan(run / "plan.json")), lookup_of(load_partitioned(run))
    images = digits.normalise(digits.val.images)
    with torch.no_grad():
        [planned] = run_plan(*found, {network.graph.inputs[0]: images}).values()
        rounded, plain = (each(images) for each in (network, without_rounding(network)))
    assert float((planned.argmax(1) == digits.val.labels).float().mean()) == pytest.approx(best_accuracy(run), abs=1e-6)
    torch.testing.assert_close(rounded, planned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, rounded, rtol=1e-2, atol=1e-2)


def without_rounding(network: TrainableGraph) -> TrainableGraph:
    return TrainableGraph(network.graph, network.weights_by_name).eval()


def test_it_learns_what_was_lost(separated: Path, original: Path, run: Path, digits: ImageData) -> None:
    """Without most messages, accuracy is lost; two epochs bring much of it back."""
    known, lost, learned = (accuracy(load_trainable(each), digits.val, digits) for each in (original, separated, run))
    assert lost < known - 0.1
    assert learned > lost + 0.25 * (known - lost)


def test_the_usual_recipe_is_that_of_what_is_separated(separated: Path, original: Path, digits: ImageData) -> None:
    """`separate` for a separated network with a teacher, `finetune` for one without."""
    assert prepare_tuning(separated, digits, teachers=[original]).recipe.name == "separate"
    assert prepare_tuning(separated, digits).recipe.name == "finetune"
    assert prepare_tuning(original, digits).recipe.name == "finetune"
    assert not prepare_tuning(original, digits).crossings
    assert not prepare_tuning(original, digits).beside


def test_a_separated_network_gets_no_new_head(separated: Path, digits: ImageData, tmp_path: Path) -> None:
    """The original gets it, before it is separated."""
    with pytest.raises(TrainingError, match=r"is separated already.* made from with `head='new'`, and separate the"):
        api.train(separated, tmp_path / "run", data=few_classes(digits, 3), head="new")
    assert not (tmp_path / "run").exists()


def test_a_damaged_plan_is_refused(separated: Path, tmp_path: Path, digits: ImageData) -> None:
    """A separated folder without its plan, or with that of another network."""
    folder = shutil.copytree(separated, tmp_path / "copy")
    (folder / "plan.json").unlink()
    with pytest.raises(SpecError, match=r"plan\.json"):
        prepare_tuning(folder, digits)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(SpecError, match=r"plan\.json"):
        load_trainable(folder)


def test_separated_and_trained_at_once(original: Path, tmp_path: Path, digits: ImageData) -> None:
    """The folder of the run and that of its start are separated alike; the accuracies of all three are told."""
    out = tmp_path / "both"
    tuned = api.separate_and_train(original, out, "digits", images=64, recipe=RECIPE, **SEPARATION)
    for name in ("separation.json", "plan.json"):
        assert (out / name).read_bytes() == (out / "start" / name).read_bytes()
    assert tuned.training.finished
    assert tuned.training.out_dir == out
    assert tuned.separation.plan == load_plan(out / "plan.json")
    for folder, told in (
        (original, tuned.original_accuracy), (out / "start", tuned.start_accuracy), (out, tuned.training.best_accuracy)
    ):  # fmt: skip
        assert accuracy(load_trainable(folder), digits.val, digits) == told
    assert tuned.original_accuracy > tuned.training.best_accuracy > tuned.start_accuracy
    with pytest.raises(TrainingError, match="holds a run already; resume it with `resume=True`"):
        api.separate_and_train(original, out, "digits", recipe=RECIPE, **SEPARATION)
    with pytest.raises(SpecError, match="is separated already"):
        api.separate_and_train(out, tmp_path / "again", "digits", recipe=RECIPE, **SEPARATION)


def test_a_training_that_does_not_help_leaves_the_network_as_it_was(
    original: Path, tmp_path: Path, digits: ImageData
) -> None:
    """The run's network is then the one before training, and says so; the history tells of the epochs."""
    out, harmful = tmp_path / "harmed", RECIPE.model_copy(update={"learning_rate": 50.0, "epochs": 1})
    options = SEPARATION | {"budget": 0.6}
    tuned = api.separate_and_train(original, out, "digits", images=64, recipe=harmful, **options)
    assert tuned.training.best_accuracy < tuned.start_accuracy
    assert tuned.keeps_start
    assert tuned.accuracy == tuned.start_accuracy == accuracy(load_trainable(out), digits.val, digits)
    assert (out / "weights.safetensors").read_bytes() == (out / "start" / "weights.safetensors").read_bytes()
    again = api.separate_and_train(original, out, "digits", images=64, recipe=harmful, resume=True, **options)
    assert again.accuracy == tuned.accuracy


def test_an_interrupted_run_goes_on(original: Path, tmp_path: Path) -> None:
    """Stopped after an epoch and resumed: the weights of an unbroken run, bit for bit.

    Another budget is refused, and changes nothing.
    """
    arguments = {"images": 64, "recipe": RECIPE, **SEPARATION}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    api.separate_and_train(original, whole, "digits", **arguments)
    tuning = SeparatedTuning(original, DIGITS, RECIPE)
    shutil.copytree(whole / "start", parts / "start")
    stopped = tuning.run(parts / "start", parts, stop_after_s=0)
    assert (stopped.training.finished, stopped.training.epochs_done) == (False, 1)
    before = files_of(parts)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        api.separate_and_train(original, parts, "digits", resume=True, **arguments | {"budget": 0.2})
    assert files_of(parts) == before
    resumed = api.separate_and_train(original, parts, "digits", resume=True, **arguments)
    assert resumed.training.finished
    first, second = (load_file(each / "last.safetensors") for each in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert files_of(parts / "start") == files_of(whole / "start")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_maps_of_the_original_teach_its_parts(original: Path, tmp_path: Path) -> None:
    """With `features` in a recipe's file, weights become others than without; a resumed run ends with the same."""
    recipe = RECIPE.model_copy(update={"distillation": Distillation(weight=0.9, features=3.0)})
    recipe.save(tmp_path / "features.yaml")
    arguments = {"images": 64, **SEPARATION}
    whole, plain, parts = (tmp_path / name for name in ("whole", "plain", "parts"))
    tuned = api.separate_and_train(original, whole, "digits", recipe=str(tmp_path / "features.yaml"), **arguments)
    assert tuned.accuracy > tuned.start_accuracy
    assert (whole / "teacher0.safetensors").is_file()
    shutil.copytree(whole / "start", parts / "start")
    SeparatedTuning(original, DIGITS, recipe).run(parts / "start", parts, stop_after_s=0)
    assert api.separate_and_train(original, parts, "digits", recipe=recipe, resume=True, **arguments).training.finished
    api.train(whole / "start", plain, data="digits", recipe=RECIPE, teachers=[original])
    first, second, other = (load_file(each / "last.safetensors") for each in (whole, parts, plain))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_resumed_run_has_the_same_messages(separated: Path, original: Path, run: Path, digits: ImageData) -> None:
    """Weights alone do not tell in which format messages were rounded: another plan is refused, and changes nothing."""
    training = prepare_tuning(separated, digits, recipe=RECIPE, teachers=[original])
    before = files_of(run)
    other = replace(
        training, beside=training.beside | {"plan.json": training.beside["plan.json"].replace("int4", "int8")}
    )
    with pytest.raises(CheckpointError, match=r"plan\.json: belongs to another run"):
        other.run(run, resume=True)
    assert files_of(run) == before


def test_a_folder_with_other_weights_is_left_as_it_is(original: Path, separated: Path, tmp_path: Path) -> None:
    """A run into a separated network, which is no run, is refused, and its folder has the same files."""
    out = shutil.copytree(separated, tmp_path / "separated")
    before = files_of(out)
    with pytest.raises(TrainingError, match="holds weights that would be overwritten"):
        api.separate_and_train(original, out, "digits", images=64, recipe=RECIPE, **SEPARATION)
    assert files_of(out) == before


def test_measured_images_are_spread_over_the_data(original: Path, digits: ImageData) -> None:
    """Evenly, normalised, in batches; no more than there are."""
    tuning = SeparatedTuning(original, DIGITS, RECIPE)
    found = torch.cat([x for (x,) in tuning.samples(100)])
    images = digits.normalise(digits.train.images)
    assert len(found) == 100
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[-1], images[-1])
    assert sum(len(x) for (x,) in tuning.samples(10_000)) == len(images)


def test_images_of_other_classes_are_refused(original: Path, tmp_path: Path) -> None:
    """Images of any size get that of the network, and classes must be those that it knows."""
    folder = make_folder(tmp_path / "images", ("train", "val"), size=12)
    source = DataSource(f"folder:{folder}", tmp_path)
    with pytest.raises(TrainingError, match=r"has scores for 10 classes.* but .* has 2 classes"):
        SeparatedTuning(original, source, RECIPE)


def test_what_teaches_nothing_is_refused(original: Path, tmp_path: Path) -> None:
    """A recipe without distillation."""
    with pytest.raises(TrainingError, match="recipe 'quick' has no `distillation`"):
        api.separate_and_train(original, tmp_path / "x", "digits", recipe=FINETUNE, **SEPARATION)
    assert not (tmp_path / "x").exists()
