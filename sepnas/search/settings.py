"""The settings of a run, kept in its folder: a resumed run must have the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sepnas.errors import SearchError
from sepnas.options import option
from sepnas.spec.document import Document
from sepnas.spec.files import is_there
from sepnas.spec.folder_lock import held

SHOWN_DIFFERENCES = 4


class RunDocument(Document):
    """Settings of which those ``fixed`` by name must be the same in a resumed run, and those ``free`` may change.

    Others are results, which a run notes. ``noun`` names the run in messages.
    """

    noun: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]]
    free: ClassVar[tuple[str, ...]]

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same in a resumed run."""
        return {name: value for name, value in self.to_data().items() if name in self.fixed}


RunT = TypeVar("RunT", bound=RunDocument)


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Lock ``folder`` against other search processes; raises :class:`SearchError` if one is running."""
    if is_there(folder) and not folder.is_dir():
        raise SearchError(f"{folder}: is a file; name a folder for the search")
    return held(folder, "searching", SearchError)


@contextmanager
def resumable_in(folder: Path) -> Iterator[None]:
    """Add a message to ``KeyboardInterrupt`` that says what is kept and how to resume."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"completed work is kept in {folder}; continue with resume=True",)
        raise


def open_run(path: Path, wanted: RunT, resume: bool) -> RunT:
    """Begin a run with its settings in the file ``path``, or resume the existing one.

    Raises :class:`SearchError` if one exists and ``resume`` is false, or if its settings differ.
    """
    if not is_there(path):
        wanted.save(path)
        return wanted
    if not resume:
        raise SearchError(
            f"{path.parent} already holds a search; resume it with "
            f"{option('--resume', 'resume=True')}, or name another folder"
        )
    found = type(wanted).load(path)
    differences = list(_differences(found.settings(), wanted.settings()))
    if differences:
        more = f"; and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        raise SearchError(
            f"{path}: this {wanted.noun} cannot be resumed with other settings: "
            f"{'; '.join(differences[:SHOWN_DIFFERENCES])}{more}. Use the same settings, or another folder"
        )
    found = found.model_copy(update={name: getattr(wanted, name) for name in wanted.free})
    found.save(path)
    return found


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
