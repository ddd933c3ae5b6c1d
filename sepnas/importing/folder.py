"""The folder of an imported network: complete or absent, and never in place of anything else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepnas.errors import StorageError
from sepnas.partition.graph import GRAPH_NAME, WEIGHTS_NAME
from sepnas.spec.document import short
from sepnas.spec.evaluation import EVALUATION_NAME
from sepnas.spec.files import why


class FolderBeside:
    """A folder ``path`` that is made in a temporary one until it takes the place of ``target``."""

    def __init__(self, temporary: Path, target: Path) -> None:
        self.path, self._temporary, self._target = temporary / "new", temporary, target

    def put(self) -> None:
        """Take the place of ``target``, and remove what stood there; raises :class:`StorageError`."""
        with _explained(self._target):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            old = self._temporary / "old"
            if self._target.exists():
                self._target.rename(old)
            try:
                self.path.rename(self._target)
            except BaseException:
                if old.exists():
                    old.rename(self._target)
                raise
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextmanager
def folder_beside(target: Path, at: Path, force: bool, others: frozenset[str]) -> Iterator[FolderBeside]:
    """Yield a place in the folder ``at`` where what takes the place of ``target`` is made; nothing else is left there.

    With ``force`` it may replace a network, which may have files named in ``others`` beside it. Raises
    :class:`StorageError`.
    """
    _check_replaceable(target, force, others)
    with _explained(target):
        at.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=at, prefix=".sepnas-import-"))
    try:
        yield FolderBeside(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_folder(target: Path, force: bool, others: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that takes its place at the end; nothing is left after an error.

    For ``force``, ``others`` and errors see :func:`folder_beside`.
    """
    with folder_beside(target, target.parent, force, others) as made:
        with _explained(target):
            made.path.mkdir()
            yield made.path
        made.put()


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{target}: cannot be written, nothing was left behind: {why(error, target)}") from error


def _check_replaceable(target: Path, force: bool, known: frozenset[str]) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / GRAPH_NAME).is_file():
        raise StorageError(f"{target}: exists and is not an imported network; choose another folder, or empty it first")
    others = sorted({path.name for path in target.iterdir()} - {GRAPH_NAME, WEIGHTS_NAME, EVALUATION_NAME, *known})
    if others:
        raise StorageError(
            f"{target}: holds {short(others[0])} besides a network; move it away, or choose another folder"
        )
    if not force:
        raise StorageError(f"{target}: a network stands there already; choose another folder, or pass --force")
