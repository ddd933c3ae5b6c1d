"""A training that is ready to run: architecture, images, recipe and initial weights."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from typing_extensions import Unpack

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.options import option
from sepnas.partition.graph import is_graph
from sepnas.separable.architecture import Architecture, refit
from sepnas.spec.document import FILE_SUFFIXES
from sepnas.train.checkpoint import load_network
from sepnas.train.earlier_runs import check_same_data, load_teacher
from sepnas.train.images import ImageData
from sepnas.train.kept_answers import KeptTeacher, load_kept_teacher
from sepnas.train.loop import train_network
from sepnas.train.processes import is_alone
from sepnas.train.recipe import NO_CHANGES, Recipe, RecipeChanges, default_recipe, load_recipe
from sepnas.train.record import TrainingResult
from sepnas.train.source import DataSource
from sepnas.train.start import digest_of, first_network
from sepnas.train.threads import use_threads_for


class RunOptions(TypedDict, total=False):
    """The options of a run that :func:`train_network` explains."""

    seed: int
    resume: bool
    device: str
    stop_after_s: float | None
    compiled: bool
    on_begin: Callable[[], object]


@dataclass(frozen=True)
class Training:
    """All inputs of a training, checked against each other; ``start`` is a network with the initial weights."""

    architecture: Architecture
    images: ImageData
    recipe: Recipe
    teachers: Sequence[SeparableNetwork | KeptTeacher] = ()
    start: SeparableNetwork | None = None

    def best(self, out: Path) -> SeparableNetwork:
        """The network of the best epoch of a run."""
        return load_network(out)

    def next_command(self, out: Path) -> str:
        """The command that usually follows a run."""
        return shlex.join(("sepnas", "export", str(out), str(out.parent / "deployment")))

    def run(
        self,
        out: Path,
        *,
        threads: int | None = None,
        **options: Unpack[RunOptions],
    ) -> TrainingResult:
        """Train from the seed or from ``start``, and write the run's folder; see :func:`train_network`."""
        use_threads_for(self.architecture, threads)
        network = first_network(self.architecture, self.images, options.get("seed", 0), self.start)
        return train_network(
            network, self.images, self.recipe, out, teachers=self.teachers, start=digest_of(self.start), **options
        )


def prepare(
    architecture: Architecture,
    source: ImageData | DataSource,
    *,
    name: str | None = None,
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    start: Path | None = None,
    teachers: Sequence[Path] = (),
) -> Training:
    """Read the recipe, the earlier runs and the images of a training.

    ``name`` names an architecture without a file, which then takes its input shape and classes from the images. The
    recipe is read before the images, because reading images may take long. Raises :class:`TrainingError`,
    ``DataError``, ``SpecError`` and ``CheckpointError``.
    """
    if isinstance(source, DataSource):
        source = source.named_for(None if name else architecture, f"architecture {architecture.name!r}")
    chosen = choose_recipe(recipe, source.name or "digits", changes, source.image_size)
    started = load_network(start) if start else None
    images = load_images(source) if isinstance(source, DataSource) else source
    if recipe is None:
        chosen = choose_recipe(recipe, images.name, changes, images.image_size)
    if name:
        seen = images.image_size, images.in_channels, images.num_classes
        architecture = refit(architecture, f"{name} for {source.name}", *seen)
    taught_by = [
        load_kept_teacher(each, images) if is_graph(str(each)) else load_teacher(each, images) for each in teachers
    ]
    if start:
        check_same_data("start", start, images)
    return Training(architecture, images, chosen, taught_by, started)


def name_of(architecture: str) -> str | None:
    """The name of an architecture given by name; None for a file."""
    return None if Path(architecture).suffix in FILE_SUFFIXES else architecture


def choose_recipe(recipe: Recipe | str | None, data: str, changes: RecipeChanges, image_size: int | None) -> Recipe:
    """A recipe, or the named one, or the default one for a data set; with the changes."""
    if isinstance(recipe, Recipe):
        return changes.applied_to(recipe, recipe.name)
    named = load_recipe(recipe) if recipe else default_recipe(data, image_size)
    return changes.applied_to(named, recipe or named.name)


def load_images(source: DataSource) -> ImageData:
    """The images of a source; :class:`TrainingError` if several processes would download them."""
    if source.download and not is_alone():
        raise TrainingError(
            f"{option('--download', 'download=True')}: several processes would write the same files; fetch them once "
            "without torchrun"
        )
    return source.load()
