"""Fine-tuning of an imported network: its graph and weights, images, recipe and head, checked against each other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from sepnas.console import warn
from sepnas.errors import TrainingError
from sepnas.nets.crossings import Crossings
from sepnas.nets.graph import load_graph_network
from sepnas.nets.trainable import STATISTICS, TrainableGraph, folder_crossings, load_trainable
from sepnas.options import option
from sepnas.partition.graph import Graph, graph_file
from sepnas.partition.heads import num_scores, with_new_head
from sepnas.plan.document import PlanDocument
from sepnas.separation.document import PLAN_NAME, SEPARATION_NAME, Separation, is_separated
from sepnas.train.checkpoint import tensors_sha256
from sepnas.train.checks import classes_text, knows_classes
from sepnas.train.images import ImageData
from sepnas.train.kept_answers import KeptTeacher, load_kept_teacher
from sepnas.train.loop import train_network
from sepnas.train.precision import has_bf16
from sepnas.train.recipe import NO_CHANGES, HeadChoice, Recipe, RecipeChanges, may_not_mirror
from sepnas.train.record import TrainingResult
from sepnas.train.seeds import check_seed, derived_seed
from sepnas.train.sides import check_first_size
from sepnas.train.source import DataSource
from sepnas.train.threads import use_threads_for_macs
from sepnas.train.training import RunOptions, choose_recipe, load_images

RECIPE, SEPARATED_RECIPE = "finetune", "separate"
"""The usual recipes: of imported networks, and of separated ones that learn from the original."""
HEAD_DEVIATION = 0.01
"""Standard deviation of a new head's weights: all classes begin nearly equal."""


@dataclass(frozen=True)
class GraphTraining:
    """All inputs of a fine-tuning.

    ``new`` are the weights that begin anew, because the head is replaced; ``crossings`` are the messages of a separated
    network, whose groups and plan are among the texts ``beside``, by the names of their files.
    """

    graph: Graph
    weights: Mapping[str, Tensor]
    images: ImageData
    recipe: Recipe
    new: tuple[str, ...] = ()
    teachers: Sequence[KeptTeacher] = ()
    crossings: Crossings = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def network(self, seed: int) -> TrainableGraph:
        """The network before training, with the weights of a new head from ``seed``."""
        check_seed(seed)
        generator = torch.Generator().manual_seed(derived_seed(seed, "head"))
        made = {name: torch.zeros(self.graph.tensors[name].dims) for name in self.new}
        for x in made.values():
            if x.dim() > 1:
                x.normal_(std=HEAD_DEVIATION, generator=generator)
        return TrainableGraph(self.graph, {**self.weights, **made}, self.crossings)

    def best(self, out: Path) -> TrainableGraph:
        """The network of the best epoch of a run."""
        return load_trainable(out)

    def next_command(self, out: Path) -> str:
        """The command that usually follows a run."""
        return shlex.join(("sepnas", "partition", str(out), "--cluster", "cluster.yaml", "--out", "plan.json"))

    def run(self, out: Path, *, threads: int | None = None, **options: Unpack[RunOptions]) -> TrainingResult:
        """Train and write the run's folder, which is that of an imported network; see :func:`train_network`."""
        use_threads_for_macs(self.graph.macs, threads)
        network = self.network(options.get("seed", 0))
        _check_batches(self.graph, self.images, self.recipe)
        start = tensors_sha256(network.state_dict())
        rates = rates_of(network, self.recipe, self.new)
        return train_network(
            network, self.images, self.recipe, out, teachers=self.teachers, start=start, rates=rates,
            beside=self.beside, **options,
        )  # fmt: skip


def prepare_tuning(
    folder: Path,
    source: ImageData | DataSource,
    *,
    head: HeadChoice = "keep",
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    teachers: Sequence[Path] = (),
) -> GraphTraining:
    """Read an imported network, the recipe and the images of a fine-tuning.

    Images are normalised as the network's configuration says, and scaled as sepnas does in training; the
    graph notes both, so that `sepnas infer` and `evaluate` do the same. Raises :class:`TrainingError` (images or
    classes that do not fit), ``SpecError`` and ``DataError``.
    """
    folder = graph_file(folder).parent
    found = load_graph_network(folder)
    graph = found.graph
    channels, side = _image_of(graph, folder)
    num_scores(graph)
    usual = SEPARATED_RECIPE if is_separated(folder) and teachers else RECIPE
    chosen = choose_recipe(recipe or usual, "", changes, None)
    check_first_size(chosen, separable=False)
    images = load_images(source) if isinstance(source, DataSource) else source
    if recipe is None:
        chosen = changes.applied_to(_as_suits(chosen, images), usual)
    _check_images(graph, folder, channels, side, images)
    graph, new = _with_head(graph, folder, images, head)
    separation = Separation.load(folder / SEPARATION_NAME) if is_separated(folder) else None
    taught_by = [replace(load_kept_teacher(each, images), separation=separation) for each in teachers]
    graph, images = _with_preparation(graph, images)
    _warn_if_random(graph, found.weights_by_name, folder)
    return GraphTraining(
        graph, found.weights_by_name, images, chosen, new, taught_by,
        folder_crossings(found.graph, folder), _documents(folder, separation),
    )  # fmt: skip


def _documents(folder: Path, separation: Separation | None) -> dict[str, str]:
    """The groups and the plan of a separated network, by the names of their files; none of another's."""
    if separation is None:
        return {}
    return {SEPARATION_NAME: separation.dumps(), PLAN_NAME: PlanDocument.load(folder / PLAN_NAME).dumps()}


def rates_of(network: TrainableGraph, recipe: Recipe, new: Sequence[str] = ()) -> dict[str, float]:
    """The factor of the learning rate of each parameter; empty if all are 1."""
    head = dict.fromkeys(new, recipe.head_rate)
    if recipe.input_rate == 1:
        return {name: rate for name, rate in head.items() if rate != 1}
    depths = network.depths()
    return {name: recipe.input_rate ** (1 - depth) for name, depth in depths.items()} | head


def _image_of(graph: Graph, folder: Path) -> tuple[int, int]:
    """The channels and the side of the image that a graph takes."""
    inputs = {name: graph.tensors[name] for name in graph.inputs}
    first = next(iter(inputs.values()))
    told = ", ".join(f"'{name}' of shape {each.dims}" for name, each in inputs.items())
    if len(inputs) > 1 or first.axes != "NCHW" or first.dtype != "float32":
        raise TrainingError(f"{folder}: is trained on images, and must have one image as its input; it has {told}")
    _, channels, height, width = first.dims
    if height != width:
        raise TrainingError(
            f"{folder}: takes images of {width}x{height} pixels, and square ones are trained on; import it with "
            "another --input-shape"
        )
    return channels, height


def _check_images(graph: Graph, folder: Path, channels: int, side: int, images: ImageData) -> None:
    again = f"or import {graph.source} again with --input-shape"
    if images.in_channels != channels:
        raise TrainingError(
            f"{folder}: takes images of {channels} channels, but those of {images.name!r} have {images.in_channels}; "
            f"train on other images, {again} {images.in_channels}x{side}x{side}"
        )
    found = images.image_size
    if found != side:
        raise TrainingError(
            f"{folder}: takes images of {side} pixels a side, but those of {images.name!r} have {found}; resize them "
            f"with {option(f'--image-size {side}', f'image_size={side}')}, {again} {channels}x{found}x{found}"
        )


def _with_head(graph: Graph, folder: Path, images: ImageData, choice: HeadChoice) -> tuple[Graph, tuple[str, ...]]:
    """The graph with the classes of the images, and the weights that are new."""
    if choice == "new":
        if is_separated(folder):
            raise TrainingError(
                f"{folder}: is separated already, and its devices' plan knows its head; train the network that it was "
                f"made from with {option('--head new', 'head=' + repr('new'))}, and separate the result"
            )
        changed, head = with_new_head(graph, images.classes)
        return changed, head.weights
    known = graph.traits.classes
    if knows_classes(graph, images):
        return graph.model_copy(update={"traits": graph.traits.model_copy(update={"classes": images.classes})}), ()
    raise TrainingError(
        f"{folder}: has scores for {classes_text(num_scores(graph), known)}, but {images.name!r} has "
        f"{classes_text(images.num_classes, images.classes)}; replace its last layer by one "
        f"for these: {option('--head new', 'head=' + repr('new'))}"
    )


def _with_preparation(graph: Graph, images: ImageData) -> tuple[Graph, ImageData]:
    """The graph and the images with one normalisation, and one way to scale images: that of training."""
    traits = graph.traits
    if len(traits.mean) == len(traits.std) == images.in_channels:
        images = replace(images, mean=traits.mean, std=traits.std)
    changed = traits.model_copy(
        update={
            "mean": images.mean, "std": images.std, "size": (images.image_size,) * 2, "crop": None,
            "interpolation": None, "fit": "cover", "resize": images.resize,
        }
    )  # fmt: skip
    return graph.model_copy(update={"traits": changed}), images


def _as_suits(recipe: Recipe, images: ImageData) -> Recipe:
    """The default recipe as it suits images that may not be mirrored, and a processor without bf16."""
    recipe = recipe.mirroring(False) if may_not_mirror(images.name) else recipe
    return recipe if has_bf16() else recipe.model_copy(update={"precision": "fp32"})


def _warn_if_random(graph: Graph, weights: Mapping[str, Tensor], folder: Path) -> None:
    measured = {
        (role, node.inputs[role]) for node in graph.nodes if node.operator == "batch_norm" for role in STATISTICS
    }
    if measured and all(bool((weights[name] == (role == STATISTICS[1])).all()) for role, name in measured):
        warn(
            f"{folder}: its batch norms have no statistics, as those of a network with random weights: was it imported "
            "without --weights? A network that was not trained before needs a longer recipe than "
            f"'{RECIPE}'"
        )


def _check_batches(graph: Graph, images: ImageData, recipe: Recipe) -> None:
    """Raise :class:`TrainingError` for batches that are too small for batch norms."""
    smallest = len(images.train) // recipe.steps_per_epoch(len(images.train))
    norms = [graph.tensors[node.outputs[0]].dims for node in graph.nodes if node.operator == "batch_norm"]
    if smallest == 1 and any(prod(dims[2:]) == 1 for dims in norms):
        raise TrainingError(
            f"`batch_size` {recipe.batch_size} makes batches of one image, too few for the batch norms of "
            f"'{graph.name}'; raise it in the recipe"
        )
