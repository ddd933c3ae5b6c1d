"""The images of a data folder: the files of each part and class, with a warning about skipped files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sepnas.errors import DataError
from sepnas.spec.dataset import class_name_problem
from sepnas.spec.listing import shown_path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})
PARTS = ("train", "val", "test")
_SHOWN = 5

Listing = Mapping[str, Mapping[str, Sequence[Path]]]
"""Part (train, val, test) -> class -> files."""


@dataclass
class PassedOver:
    """Skipped files and folders that are or may hold images, by kind."""

    nested: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        suffixes = sorted({path.suffix.lower() for path in self.others if path.suffix})
        known = ", ".join(suffixes[:_SHOWN]) + (", ..." if len(suffixes) > _SHOWN else "")
        kinds = {
            "in folders below a class": self.nested,
            "beside the folders of the classes": self.loose,
            f"whose {'name begins' if len(self.hidden) == 1 else 'names begin'} with a dot": self.hidden,
            f"{'that is not an image' if len(self.others) == 1 else 'that are not images'} by "
            f"{'its' if len(self.others) == 1 else 'their'} suffix ({known or 'none'})": self.others,
        }
        found = {what: paths for what, paths in kinds.items() if paths}
        told = [f"{_files(len(paths))} {what} (first: {shown_path(paths[0])})" for what, paths in found.items()]
        if self.folders:
            names = ", ".join(shown_path(path.name) for path in self.folders[:_SHOWN])
            number = "1 folder" if len(self.folders) == 1 else f"{len(self.folders):,} folders"
            told.append(f"{number} beside `train` ({names}; only train, val and test are read)")
        return "; ".join(told)


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def list_folder(folder: Path) -> Listing:
    """The image files of each part and class, sorted by name; checks that all parts have the same classes.

    Warns about skipped images. Raises :class:`DataError` that names the faulty path.
    """
    with _explained(folder):
        return _list(folder)


def list_classes(folder: Path) -> Mapping[str, Sequence[Path]]:
    """The image files of each class of a folder that holds a folder for each; warns and raises as :func:`list_folder`.

    One class is enough.
    """
    passed = PassedOver()
    with _explained(folder):
        found = _list_part(folder, passed)
    _warn_of(passed, folder)
    return found


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        if not folder.is_dir():
            raise DataError(
                f"{shown_path(folder)}: no such folder; expected one with a folder of images for each class"
            )
        yield
    except OSError as error:
        raise DataError(f"{shown_path(error.filename or folder)}: cannot be read: {error.strerror}") from None


def _warn_of(passed: PassedOver, folder: Path) -> None:
    if told := str(passed):
        warnings.warn(f"{shown_path(folder)}: passed over {told}", stacklevel=3)


def _list(folder: Path) -> Listing:
    shown, passed = shown_path(folder), PassedOver()
    if not (folder / "train").is_dir():
        raise DataError(f"{shown}: has no folder `train`; expected {shown}/train/CLASS/*.png")
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if len(parts) == 1:
        raise DataError(f"{shown}: has neither `test` nor `val` beside `train`; one is needed for testing")
    listing = {part: _list_part(folder / part, passed) for part in parts}
    for part in parts[1:]:
        _check_classes(shown, part, listing)
    if len(listing["train"]) < 2:
        raise DataError(f"{shown}/train: has one class; at least two are needed")
    passed.folders += [p for p in _visible(folder) if p.name not in PARTS and p.is_dir()]
    _warn_of(passed, folder)
    if "test" not in listing:
        listing["test"] = listing.pop("val")
    return listing


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _list_part(part: Path, passed: PassedOver) -> dict[str, list[Path]]:
    entries = list(_visible(part))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        raise DataError(f"{shown_path(part)}: is empty; expected a folder for each class, with its images")
    passed.loose += [path for path in entries if _is_image(path) and not path.is_dir()]
    for path in classes:
        if problem := class_name_problem(path.name):
            raise DataError(f"{shown_path(part)}: the folder {path.name!r} names a class {problem}; rename it")
    found = {path.name: _images_of(path, passed) for path in classes}
    for name, files in found.items():
        if not files:
            below = f"; {len(passed.nested):,} are in folders below it" if passed.nested else ""
            raise DataError(f"{shown_path(part / name)}: holds no images (looked for {_KNOWN}){below}")
    return found


def _images_of(folder: Path, passed: PassedOver) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            passed.hidden += [path] * _is_image(path)
        elif _is_image(path):
            found.append(path)
        elif path.is_dir():
            passed.nested += _images_below(path)
        else:
            passed.others.append(path)
    return found


def _images_below(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in sorted(names) if _is_image(Path(name))]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _check_classes(shown: str, part: str, listing: Listing) -> None:
    for has, lacks in (("train", part), (part, "train")):
        missing = sorted(set(listing[has]) - set(listing[lacks]))
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{shown}/{lacks}: has no class {missing[0]!r}{more}, but {shown}/{has} has; both need the same classes"
            )


_KNOWN = ", ".join(sorted(SUFFIXES))
