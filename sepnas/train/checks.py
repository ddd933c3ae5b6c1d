"""Checks of a training before any file is written."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.errors import TrainingError
from sepnas.options import option
from sepnas.partition.graph import Graph
from sepnas.partition.heads import num_scores
from sepnas.separable.architecture import Architecture
from sepnas.separable.layers import stage_sides
from sepnas.spec.dataset import class_name_problem
from sepnas.spec.document import few, short
from sepnas.train.augment import check_augmentation
from sepnas.train.images import ImageData
from sepnas.train.recipe import Recipe
from sepnas.train.seeds import check_seed
from sepnas.train.sides import check_first_size, smallest_of
from sepnas.units import format_count


def check_trainable(architecture: Architecture | None, data: ImageData, recipe: Recipe, seed: int) -> None:
    """Raise :class:`TrainingError` for any problem that is detectable before a file is written."""
    check_first_size(recipe, separable=architecture is not None)
    if architecture:
        check_fits(architecture, data)
        architecture = smallest_of(recipe, architecture)
        check_batches(architecture, data, recipe)
    check_class_names(data)
    check_dropout(architecture, recipe)
    check_augmentation(recipe.augmentation, data)
    check_seed(seed)


def check_class_names(data: ImageData) -> None:
    """Raise :class:`TrainingError` if an export would refuse the class names."""
    for name in data.classes:
        problem = class_name_problem(name) or ("twice" if data.classes.count(name) > 1 else "")
        if problem:
            raise TrainingError(f"data set {data.name!r} names a class {problem}: {name!r}; rename it")


def check_fits(architecture: Architecture, data: ImageData) -> None:
    """Raise :class:`TrainingError` unless size, channels and classes of the data match the architecture."""
    for field, what in (("image_size", "pixels a side"), ("in_channels", "channels"), ("num_classes", "classes")):
        wanted, found = getattr(architecture, field), getattr(data, field)
        if wanted != found:
            raise TrainingError(
                f"data set {data.name!r} has {found} {what}, but architecture {architecture.name!r} has "
                f"`{field}` {wanted}; set it to {found} in the file of the architecture or search space"
                + (resize_advice(wanted) if field == "image_size" else "")
            )


def knows_classes(graph: Graph, data: ImageData) -> bool:
    """Whether a graph has a score for each class of the data, in order; its classes may have no names."""
    known = graph.traits.classes or data.classes
    return num_scores(graph) == data.num_classes and [*map(_plain, known)] == [*map(_plain, data.classes)]


def classes_text(count: int, names: Sequence[str]) -> str:
    """A number of classes and the first of their names, for messages."""
    return format_count(count, "class") + (f" ({few([short(name) for name in names], 3)})" if names else "")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def check_batches(architecture: Architecture, data: ImageData, recipe: Recipe) -> None:
    """Raise :class:`TrainingError` if a batch gives the last batch norms only one value per channel."""
    smallest = len(data.train) // recipe.steps_per_epoch(len(data.train))
    if smallest == 1 and stage_sides(architecture)[-1] == 1:
        raise TrainingError(
            f"`batch_size` {recipe.batch_size} makes batches of one image, too few for images of "
            f"{architecture.image_size} pixels a side; raise it in the recipe, or {_larger_images(recipe)}"
        )


def check_dropout(architecture: Architecture | None, recipe: Recipe) -> None:
    """Raise :class:`TrainingError` if the recipe drops devices or messages that do not exist."""
    for field in ("device_dropout", "message_dropout"):
        share = getattr(recipe, field)
        if share and (architecture is None or architecture.num_devices == 1):
            raise TrainingError(f"`{field}` is {share:g}, but there is one device only; set it to 0, or train for more")
    if recipe.device_dropout and recipe.distillation and recipe.distillation.features:
        raise TrainingError(
            "`device_dropout` leaves devices without features of some images, which `distillation.features` compares "
            "with a teacher's; set one of the two to 0"
        )
    if recipe.device_dropout and architecture and stage_sides(architecture)[-1] == 1:
        raise TrainingError(
            f"`device_dropout` may leave a device one image of a batch, too few for the batch norms of images of "
            f"{architecture.image_size} pixels a side; set it to 0, or {_larger_images(recipe)}"
        )


def _larger_images(recipe: Recipe) -> str:
    return "raise `first_size`" if recipe.first_size < 1 else "resize the data"


def check_shares(smallest_batch: int, recipe: Recipe, processes: int) -> None:
    """Raise :class:`TrainingError` if a batch has fewer than two images per ``torchrun`` process."""
    if processes > 1 and smallest_batch < 2 * processes:
        raise TrainingError(
            f"`batch_size` {recipe.batch_size} makes batches of {smallest_batch} images, too few for {processes} "
            "processes, which take two each at least; raise it in the recipe, or start fewer"
        )


def resize_advice(image_size: int) -> str:
    """The end of a message about images of another size."""
    return f", or resize the images: {option(f'--image-size {image_size}', f'image_size={image_size}')}"
