"""The run folder of a search: its settings, its progress and its front.

``run.json`` (settings), ``supernet/`` (checkpoints of its training), ``candidates.jsonl``, ``front.json``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sepnas.errors import SearchError
from sepnas.search.archive import Archive
from sepnas.search.candidate import Candidate
from sepnas.search.explorer import BATCH, StrategyName
from sepnas.search.settings import RunDocument
from sepnas.separable.space import SearchSpace
from sepnas.separable.space_parts import ObjectiveName
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import Document
from sepnas.spec.figures import Fit
from sepnas.spec.files import is_there
from sepnas.train.recipe import Recipe

RUN_FILE, FRONT_FILE, CANDIDATES_FILE = "run.json", "front.json", "candidates.jsonl"
SUPERNET_FOLDER, TRIALS_FOLDER = "supernet", "trials"


class SearchRun(RunDocument):
    """The settings of a search. A resumed search must have the same settings, except ``candidates``, which may grow.

    ``data`` and ``resize`` describe the data set for later commands; only its content must be the same, by
    ``data_sha256``.

    ``supernet_sha256`` is the digest of the trained weights, once they exist; all accuracies belong to these weights.
    """

    format_name: ClassVar[str] = "sepnas.search-run"
    noun: ClassVar[str] = "search"
    fixed: ClassVar[tuple[str, ...]] = ("space", "cluster", "data_sha256", "recipe", "seed", "strategy", "batch")
    free: ClassVar[tuple[str, ...]] = ("candidates", "data", "resize")

    space: SearchSpace
    cluster: Cluster
    data: str
    data_sha256: str
    resize: Fit | None = None
    recipe: Recipe
    seed: int
    strategy: StrategyName = "predictive"
    batch: int = BATCH
    candidates: int
    supernet_sha256: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)


class SearchFront(Document):
    """The Pareto front of a finished search, by rising bytes."""

    format_name: ClassVar[str] = "sepnas.front"

    space: str
    objectives: tuple[ObjectiveName, ...]
    hypervolume: float
    candidates: tuple[Candidate, ...]


def note_supernet(folder: Path, run: SearchRun, sha256: str) -> SearchRun:
    """Record the digest of the supernet's weights; raises :class:`SearchError` if it differs from the recorded one."""
    if run.supernet_sha256 not in (None, sha256):
        raise SearchError(
            f"{folder / SUPERNET_FOLDER}: the supernet's weights are not those of {folder / RUN_FILE}, so the kept "
            "candidates' accuracies do not belong to them; name another folder"
        )
    run = run.model_copy(update={"supernet_sha256": sha256})
    run.save(folder / RUN_FILE)
    return run


def archive_of(folder: Path, space: SearchSpace) -> Archive[Candidate]:
    """The candidates of a search of ``space`` in ``folder``."""
    return Archive(folder / CANDIDATES_FILE, partial(Candidate.from_line, space=space))


def load_front(run_dir: str | Path) -> list[Candidate]:
    """The Pareto front of a finished search, by rising bytes; raises :class:`SearchError` if unfinished."""
    path = Path(run_dir) / FRONT_FILE
    if not is_there(path):
        known = is_there(Path(run_dir) / RUN_FILE)
        raise SearchError(
            f"{path}: no such file: "
            + ("the search is not finished; resume it" if known else "not the folder of a search")
        )
    return list(SearchFront.load(path).candidates)


def load_candidates(run_dir: str | Path) -> list[Candidate]:
    """All candidates evaluated so far, by index; raises :class:`SearchError` if the folder holds no search."""
    return archive_of(Path(run_dir), load_run(run_dir).space).candidates()


def load_run(run_dir: str | Path) -> SearchRun:
    """The settings of a search; raises :class:`SearchError` if the folder holds none."""
    path = Path(run_dir) / RUN_FILE
    if not is_there(path):
        raise SearchError(
            f"{path}: no such file: not the folder of a search; `sepnas search SPACE --out {run_dir}` makes one"
        )
    return SearchRun.load(path)
