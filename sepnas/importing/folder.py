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


@contextmanager
def new_folder(target: Path, force: bool, others: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that takes its place at the end; nothing is left after an error.

    With ``force`` it replaces a network, which may have files named in ``others`` beside it. Raises
    :class:`StorageError`.
    """
    _check_replaceable(target, force, others)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".sepnas-import-"))
        (temporary / "new").mkdir()
        yield temporary / "new"
        old = temporary / "old"
        if target.exists():
            target.rename(old)
        try:
            (temporary / "new").rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise StorageError(f"{target}: cannot be written, nothing was left behind: {why(error, target)}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
