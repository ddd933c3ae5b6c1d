"""The commands that reproduce a chain of runs, derived from the folders that it wrote."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

from sepnas.errors import CheckpointError, SepnasError
from sepnas.results.provenance import command_line
from sepnas.search.folder import SearchRun, load_run
from sepnas.separable.read import is_plan_file
from sepnas.separable.space import SearchSpace
from sepnas.spec.dataset import DataFacts

_SPACES = Path("search_spaces")


def data_options(run: SearchRun) -> list[str]:
    """The options that select a search's images; ``--image-size`` only if the images may be resized."""
    sized = run.resize is not None or run.data.startswith("folder:")
    size = ["--image-size", str(run.space.network.image_size)] if sized else []
    return ["--data", run.data, *size, *(["--resize", run.resize] if run.resize == "crop" else [])]


def about(search: Path | None, training: Path | None, given: Iterable[Path] = ()) -> str:
    """The networks and runs, their data and the date, in one line."""
    names = [str(path) for path in (*given, search, training) if path]
    return ", ".join([*names, *_data_of(search, training), f"{date.today():%Y-%m-%d}"])


def _data_of(search: Path | None, training: Path | None) -> list[str]:
    if search is not None:
        return [load_run(search).data]
    return [] if training is None else [_facts(training).name]


def _facts(training: Path) -> DataFacts:
    return DataFacts.load(training / "data.json")


def chain_commands(
    search: Path | None, training: Path | None, architecture: Path | None, candidate: int | None, trace: Path | None
) -> tuple[str, ...]:
    """The commands of the given parts of the chain, then the running command; ``candidate`` is the chosen one.

    ``architecture`` may be a plan file, which is neither picked nor trained: a training is then exported by it.
    """
    commands: list[str] = []
    plan = architecture if is_plan_file(architecture) else None
    picked = _picked_file(architecture, training)
    if search is not None:
        commands += _search_commands(search, load_run(search))
        if candidate is not None and plan is None:
            commands.append(_line("pick", search, "--candidate", candidate, "--out", picked))
    if training is not None:
        if plan is None:
            commands.append(_train_command(search, training, picked))
        commands.append(_line("export", training, "deployment", *(["--plan", plan] if plan else [])))
    if trace is not None:
        commands.append("sepnas worker deployment/device0 --listen 0.0.0.0:17300 # on device 0; likewise on the others")
        commands.append(_line("bench", "deployment", "--devices", "hosts.yaml", "--trace", trace))
    return (*commands, command_line())


def _picked_file(architecture: Path | None, training: Path | None) -> Path:
    """The file that a candidate is picked to; never the copy in the run that was trained from it."""
    if architecture is None or (training is not None and architecture.resolve().parent == training.resolve()):
        return Path("architecture.json")
    return architecture


def _search_commands(folder: Path, run: SearchRun) -> Iterator[str]:
    space = _space_file(run.space)
    if space is None:
        yield f"# space.yaml: `space` in {folder / 'run.json'}"
    yield f"# cluster.yaml: `cluster` in {folder / 'run.json'}; so is the supernet's recipe"
    options = ["--candidates", run.candidates, "--seed", run.seed, "--epochs", run.recipe.epochs]
    options += ["--strategy", run.strategy] if run.strategy != "predictive" else []
    where = ["--cluster", "cluster.yaml", "--out", folder]
    yield _line("search", space or "space.yaml", *data_options(run), *options, *where)


def _space_file(space: SearchSpace) -> Path | None:
    """The file of the repository that describes the space, if there is one."""
    path = _SPACES / f"{space.name}.yaml"
    with suppress(SepnasError, OSError):
        return path if path.is_file() and SearchSpace.load(path) == space else None
    return None


def _train_command(search: Path | None, training: Path, architecture: Path) -> str:
    data = data_options(load_run(search)) if search else ["--data", _facts(training).name]
    return _line("train", architecture, *data, *_training_options(training), "--out", training)


def _training_options(training: Path) -> list[str | int]:
    """The recipe, epochs and seed of a training, as far as its checkpoint records them."""
    from sepnas.train.checkpoint import LAST, read_checkpoint
    from sepnas.train.recipe import RECIPES

    with suppress(CheckpointError, KeyError):
        identity = read_checkpoint(training / LAST)[1]["identity"]
        recipe = identity["recipe"]
        named = ["--recipe", recipe["name"]] if recipe["name"] in RECIPES else []
        return [*named, "--epochs", recipe["epochs"], "--seed", identity["seed"]]
    return []


def _line(verb: str, *words: object) -> str:
    return shlex.join(["sepnas", verb, *map(str, words)])
