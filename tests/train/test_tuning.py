"""Fine-tuning of imported networks: from a folder to a folder that everything else takes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepnas import api
from sepnas.errors import CheckpointError, DataError, SpecError, TrainingError
from sepnas.nets.graph import load_graph_network
from sepnas.nets.trainable import load_trainable
from sepnas.partition.graph import load_graph
from sepnas.partition.heads import num_scores, with_new_head
from sepnas.train.augment import augment
from sepnas.train.batches import alternately_mirrored
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData, Split
from sepnas.train.optimize import Optimization
from sepnas.train.recipe import RECIPES, Augmentation, Recipe, RecipeChanges
from sepnas.train.tuning import prepare_tuning, rates_of

RECIPE = Recipe(
    name="quick", optimizer="adamw", epochs=2, batch_size=64, learning_rate=1e-2, weight_decay=0.05, decay_norms=False,
    schedule="cosine", warmup=0.2, input_rate=0.5, head_rate=2.0,
    augmentation=Augmentation(flip=True, alternate_flips=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network with random weights for the digits, normalised in a way of its own."""
    folder = tmp_path_factory.mktemp("imported") / "tiny"
    traits = {"mean": (0.5,), "std": (0.25,)}
    api.import_network("tests.train.tiny:Tiny", folder, input_shapes=[(1, 8, 8)], traits=traits)
    return folder


@pytest.fixture(scope="module")
def tuned(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    api.train(imported, out, data="digits", recipe=RECIPE)
    return out


def few_classes(data: ImageData, count: int) -> ImageData:
    """The images of the first classes, in every split."""
    splits = {part: getattr(data, part) for part in ("train", "val", "test")}
    kept = {part: split.take((split.labels < count).nonzero().flatten()) for part, split in splits.items()}
    return replace(data, name="few", classes=data.classes[:count], **kept)


def test_the_folder_of_a_run_is_that_of_an_imported_network(tuned: Path, digits: ImageData) -> None:
    """Its graph and best weights are read like an imported network's, and have the accuracy that was recorded."""
    network = load_trainable(tuned)
    history = [float(line.split('"val_accuracy": ')[1].split(",")[0]) for line in _history(tuned)]
    normalised = replace(digits, mean=network.graph.traits.mean, std=network.graph.traits.std)
    assert accuracy(network, digits.val, normalised) == pytest.approx(max(history))
    assert max(history) > 0.5
    assert network.graph.traits.mean == (0.5,)
    assert network.graph.traits.classes == digits.classes


def _history(run: Path) -> list[str]:
    return next(run.glob("history*")).read_text().splitlines()


def test_evaluate_finds_the_recorded_accuracy(tuned: Path) -> None:
    """`sepnas evaluate` prepares the validation images as training did."""
    found = api.evaluate(tuned, data="digits")
    best = max(float(line.split('"val_accuracy": ')[1].split(",")[0]) for line in _history(tuned))
    assert found.kind == "network"
    assert found.scores.accuracy == pytest.approx(best)


def test_a_run_is_partitioned_and_trained_on(tuned: Path, tmp_path: Path) -> None:
    """The result is split as any imported network, and is the start of another training."""
    assert api.partition(tuned, "rows", 2).num_devices == 2
    result = api.train(tuned, tmp_path / "more", data="digits", recipe=RECIPE, changes=RecipeChanges(epochs=1))
    assert result.finished
    assert result.best_accuracy > 0.5


def test_a_stopped_run_goes_on_to_the_same_weights(imported: Path, tuned: Path, tmp_path: Path) -> None:
    """Stopped after an epoch and resumed, with rates by layer and a rise at the start: the same, bit for bit."""
    out = tmp_path / "run"
    stopped = api.train(imported, out, data="digits", recipe=RECIPE, stop_after_s=0)
    assert not stopped.finished
    assert api.train(imported, out, data="digits", recipe=RECIPE, resume=True).finished
    first, second = (load_file(run / "last.safetensors") for run in (tuned, out))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_network_does_not_go_on(imported: Path, tuned: Path, tmp_path: Path) -> None:
    """A run is resumed with the weights that it began with only; without `resume` it is not overwritten."""
    run = shutil.copytree(tuned, tmp_path / "run")
    with pytest.raises(CheckpointError, match="belongs to another run: `start`"):
        api.train(tuned, run, data="digits", recipe=RECIPE, resume=True)
    with pytest.raises(TrainingError, match="holds a run already"):
        api.train(imported, run, data="digits", recipe=RECIPE)
    with pytest.raises(TrainingError, match="weights that would be overwritten"):
        api.train(imported, shutil.copytree(imported, tmp_path / "copy"), data="digits", recipe=RECIPE)


def test_a_new_head_knows_the_classes_of_the_data(imported: Path, digits: ImageData, tmp_path: Path) -> None:
    """Other classes are refused with the way out; with a new head the run's network has scores for them."""
    few = few_classes(digits, 3)
    with pytest.raises(TrainingError, match=r"scores for 10 classes, but 'few' has 3 .*`head='new'`"):
        api.train(imported, tmp_path / "run", data=few, recipe=RECIPE)
    changes = RecipeChanges(epochs=6)
    result = api.train(imported, tmp_path / "run", data=few, head="new", recipe=RECIPE, changes=changes)
    network = load_graph_network(tmp_path / "run")
    assert network.graph.traits.classes == few.classes
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert result.best_accuracy > 0.5
    assert network.graph.num_parameters == sum(p.numel() for p in load_trainable(tmp_path / "run").parameters())


def test_a_head_is_new_and_the_rest_is_kept(imported: Path, digits: ImageData) -> None:
    """Only the last layer is replaced, by weights that the seed determines."""
    training = prepare_tuning(imported, few_classes(digits, 4), head="new", recipe=RECIPE)
    first, again, other = (training.network(seed) for seed in (0, 0, 1))
    old = load_trainable(imported).state_dict()
    assert training.new == ("8.weight", "8.bias")
    for name, x in first.state_dict().items():
        assert torch.equal(x, again.state_dict()[name])
        assert torch.equal(x, old[name]) == (name not in training.new)
    assert not torch.equal(first.state_dict()["8.weight"], other.state_dict()["8.weight"])
    assert float(first.state_dict()["8.weight"].abs().max()) < 0.1


def test_a_convolution_with_a_mean_behind_it_is_a_head(tmp_path: Path) -> None:
    """The head of SqueezeNet is replaced, and the sizes of all tensors behind it follow."""
    api.import_network("tests.train.tiny:Squeezed", tmp_path / "net", input_shapes=[(1, 8, 8)])
    graph, head = with_new_head(load_graph(tmp_path / "net"), ("a", "b", "c"))
    assert (head.node.operator, num_scores(graph)) == ("conv", 3)
    assert [node.operator for node in head.after] == ["relu", "adaptive_avg_pool2d", "reshape"]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Probabilities", "are probabilities, made by softmax"),
        ("Maps", r"makes no class scores \(1, classes\), but 'output' of shape \(1, 10, 6, 6\)"),
        ("Halves", "made by div"),
    ],
)
def test_outputs_that_are_no_scores_of_one_layer_are_refused(
    factory: str, message: str, digits: ImageData, tmp_path: Path
) -> None:
    """What makes the outputs is named."""
    api.import_network(f"tests.train.tiny:{factory}", tmp_path / "net", input_shapes=[(1, 8, 8)])
    with pytest.raises(SpecError, match=message):
        prepare_tuning(tmp_path / "net", digits, head="new")


def test_images_that_do_not_fit_are_refused_with_the_way_out(imported: Path, digits: ImageData) -> None:
    """Another size offers to resize, another number of channels to import again."""
    large = replace(digits, train=Split(torch.zeros(20, 1, 12, 12, dtype=torch.uint8), torch.arange(20) % 10))
    with pytest.raises(TrainingError, match=r"8 pixels a side, .* have 12; resize them with `image_size=8`, or import"):
        prepare_tuning(imported, large)
    colour = replace(digits, train=Split(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 10))
    with pytest.raises(TrainingError, match=r"1 channels, .* have 3; .* --input-shape 3x8x8"):
        prepare_tuning(imported, colour)


def test_options_of_separable_networks_are_refused(imported: Path, tmp_path: Path) -> None:
    """What does not apply to an imported network is named, and so is a missing data set."""
    with pytest.raises(SpecError, match="is an imported network, so `devices` does not apply"):
        api.train(imported, tmp_path / "run", data="digits", devices=2)
    with pytest.raises(DataError, match="no data set is named"):
        api.train(imported, tmp_path / "run")
    with pytest.raises(SpecError, match="only an imported network gets a new head"):
        api.train("resnext11_2x4d", tmp_path / "run", data="digits", head="new")


def test_random_weights_are_warned_of(
    imported: Path, tuned: Path, digits: ImageData, capsys: pytest.CaptureFixture
) -> None:
    """A network that was never trained is told from one that was."""
    prepare_tuning(imported, digits)
    assert "random weights" in capsys.readouterr().err
    prepare_tuning(tuned, digits)
    assert "random weights" not in capsys.readouterr().err


def test_a_training_that_diverges_stops_and_keeps_the_best(imported: Path, digits: ImageData, tmp_path: Path) -> None:
    """The step is named; the weights of the best epoch are still a network."""
    wild = RECIPE.model_copy(update={"optimizer": "sgd", "learning_rate": 1e-3, "input_rate": 1.0, "epochs": 4})
    training = prepare_tuning(imported, digits, recipe=wild)
    run = tmp_path / "run"
    training.run(run, stop_after_s=0)
    best = load_graph_network(run).weights_by_name
    broken = load_file(run / "last.safetensors")
    assert best.keys() <= broken.keys()
    _spoil(run)
    with pytest.raises(TrainingError, match=r"epoch 2, step 1 of \d+; try a lower .* continues from the best epoch"):
        training.run(run, resume=True)
    assert all(torch.equal(x, best[name]) for name, x in load_graph_network(run).weights_by_name.items())


def _spoil(run: Path) -> None:
    """Make the next step's loss infinite, as a rate that is far too high does."""
    from sepnas.train.checkpoint import read_checkpoint, write_checkpoint

    tensors, about = read_checkpoint(run / "last.safetensors")
    write_checkpoint(run / "last.safetensors", tensors | {"8.bias": torch.full((10,), torch.inf)}, about)


def test_rates_rise_towards_the_output(imported: Path, digits: ImageData) -> None:
    """The first layer learns by `input_rate`, the last one by the recipe's rate, a new head by `head_rate`."""
    training = prepare_tuning(imported, few_classes(digits, 4), head="new", recipe=RECIPE)
    network = training.network(0)
    rates = rates_of(network, RECIPE, training.new)
    assert {name: round(rate, 4) for name, rate in rates.items()} == {
        **dict.fromkeys(("0.weight", "1.weight", "1.bias"), 0.5),
        **dict.fromkeys(("3.weight", "4.weight", "4.bias"), round(0.5**0.5, 4)),
        **dict.fromkeys(("8.weight", "8.bias"), 2.0),
    }
    assert rates_of(network, RECIPE.model_copy(update={"input_rate": 1.0, "head_rate": 1.0}), training.new) == {}
    optimization = Optimization(network, RECIPE, 10, rates=rates)
    found = []
    for _ in range(20):
        found.append(optimization.learning_rate)
        optimization.step(sum(x.square().sum() for x in network.parameters()))
    assert found.index(max(found)) == 4  # a fifth of 20 steps
    assert max(found) == pytest.approx(RECIPE.learning_rate)
    assert found[-1] < 0.02 * RECIPE.learning_rate


def test_every_image_is_mirrored_in_every_second_epoch() -> None:
    """Half of the images are mirrored in an epoch, the others in the next; the pixels are mirrored and not moved."""
    first, second, third = (alternately_mirrored(1000, 5, epoch) for epoch in (1, 2, 3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 400 < int(first.sum()) < 600
    images = torch.randint(256, (4, 1, 3, 3), dtype=torch.uint8)
    found = augment(
        images, Augmentation(flip=True, alternate_flips=True), torch.Generator(), torch.tensor([1, 0, 0, 1]) > 0
    )
    assert torch.equal(found[1:3], images[1:3])
    assert torch.equal(found[::3], images[::3].flip(3))


def test_the_default_recipe_does_not_mirror_folders_and_digits(imported: Path, digits: ImageData) -> None:
    """The recipe for imported networks is the default, without mirroring where it may change a class."""
    training = prepare_tuning(imported / "graph.json", digits, changes=RecipeChanges(epochs=1))
    assert (training.recipe.name, training.recipe.epochs, training.recipe.augmentation.flip) == ("finetune", 1, False)
    assert prepare_tuning(imported, digits, recipe="finetune").recipe == RECIPES["finetune"]
    assert prepare_tuning(imported, digits, changes=RecipeChanges(flip=True)).recipe.augmentation.alternates
