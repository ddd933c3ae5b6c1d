"""The run folder of a search: its settings, its progress and its front.

``run.json`` (settings), ``supernet/`` (checkpoints of its training), ``candidates.jsonl``, ``front.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from sepnas.errors import SearchError
from sepnas.options import option
from sepnas.search.archive import Archive
from sepnas.search.candidate import Candidate
from sepnas.search.explorer import BATCH, StrategyName
from sepnas.separable.space import SearchSpace
from sepnas.separable.space_parts import ObjectiveName
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import Document
from sepnas.spec.figures import Fit
from sepnas.spec.files import is_there
from sepnas.spec.folder_lock import held
from sepnas.train.recipe import Recipe

RUN_FILE, FRONT_FILE, CANDIDATES_FILE = "run.json", "front.json", "candidates.jsonl"
SUPERNET_FOLDER, TRIALS_FOLDER = "supernet", "trials"
SHOWN_DIFFERENCES = 4


class SearchRun(Document):
    """The settings of a search. A resumed search must have the same settings, except ``candidates``, which may grow.

    ``data`` and ``resize`` describe the data set for later commands; only its content must be the same, by
    ``data_sha256``.

    ``supernet_sha256`` is the digest of the trained weights, once they exist; all accuracies belong to these weights.
    """

    format_name: ClassVar[str] = "sepnas.search-run"

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

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same in a resumed search."""
        names = ("space", "cluster", "data_sha256", "recipe", "seed", "strategy", "batch")
        return {name: value for name, value in self.to_data().items() if name in names}


class Front(Document):
    """The Pareto front of a finished search, by rising bytes."""

    format_name: ClassVar[str] = "sepnas.front"

    space: str
    objectives: tuple[ObjectiveName, ...]
    hypervolume: float
    candidates: tuple[Candidate, ...]


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Lock ``folder`` against other search processes; raises :class:`SearchError` if one is running."""
    if is_there(folder) and not folder.is_dir():
        raise SearchError(f"{folder}: is a file; name a folder for the search")
    return held(folder, "searching", SearchError)


def open_run(folder: Path, wanted: SearchRun, resume: bool) -> SearchRun:
    """Begin a run in ``folder``, or resume the existing one.

    Raises :class:`SearchError` if one exists and ``resume`` is false, or if its settings differ.
    """
    path = folder / RUN_FILE
    if not is_there(path):
        wanted.save(path)
        return wanted
    if not resume:
        raise SearchError(
            f"{folder} already holds a search; resume it with "
            f"{option('--resume', 'resume=True')}, or name another folder"
        )
    found = SearchRun.load(path)
    differences = list(_differences(found.settings(), wanted.settings()))
    if differences:
        more = f"; and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        raise SearchError(
            f"{path}: this search cannot be resumed with other settings: "
            f"{'; '.join(differences[:SHOWN_DIFFERENCES])}{more}. Use the same settings, or another folder"
        )
    found = found.model_copy(update={name: getattr(wanted, name) for name in ("candidates", "data", "resize")})
    found.save(path)
    return found


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


def load_front(run_dir: str | Path) -> list[Candidate]:
    """The Pareto front of a finished search, by rising bytes; raises :class:`SearchError` if unfinished."""
    path = Path(run_dir) / FRONT_FILE
    if not is_there(path):
        known = is_there(Path(run_dir) / RUN_FILE)
        raise SearchError(
            f"{path}: no such file: "
            + ("the search is not finished; resume it" if known else "not the folder of a search")
        )
    return list(Front.load(path).candidates)


def load_candidates(run_dir: str | Path) -> list[Candidate]:
    """All candidates evaluated so far, by index; raises :class:`SearchError` if the folder holds no search."""
    return Archive(Path(run_dir) / CANDIDATES_FILE, load_run(run_dir).space).candidates()


def load_run(run_dir: str | Path) -> SearchRun:
    """The settings of a search; raises :class:`SearchError` if the folder holds none."""
    path = Path(run_dir) / RUN_FILE
    if not is_there(path):
        raise SearchError(
            f"{path}: no such file: not the folder of a search; `sepnas search SPACE --out {run_dir}` makes one"
        )
    return SearchRun.load(path)


def _differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Each differing value, with its path."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys((*found, *wanted)):
            yield from _differences(found.get(key), wanted.get(key), f"{place}.{key}" if place else key)
    elif _listing(found) and _listing(wanted) and len(found) == len(wanted):
        for index, (old, new) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(old, new, f"{place}.{index}")
    elif found != wanted:
        yield f"`{place}` was {found!r} and is now {wanted!r}"


def _listing(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
