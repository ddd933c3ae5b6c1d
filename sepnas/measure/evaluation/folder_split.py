"""The files of one split of an image folder; images of other splits are neither decoded nor held in memory.

===========================  ==============================================================================
the folder has               splits
===========================  ==============================================================================
``train`` and others         those of training, see :mod:`sepnas.train.folder`; validation images may be held
                             out of ``train``
``val``, ``test`` or both    these
neither, but CLASS folders   all images, whichever split is asked for by default
===========================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sepnas.errors import DataError
from sepnas.options import option
from sepnas.spec.evaluation import EvaluatedSplit, SplitChoice
from sepnas.spec.listing import shown_path
from sepnas.train.data import HELD_OUT_FRACTION, stratified_holdout
from sepnas.train.folder_listing import PARTS, list_classes, list_folder

_FOLDERS: Mapping[SplitChoice, str] = {"validation": "val", "test": "test", "train": "train"}


@dataclass(frozen=True)
class FolderSplit:
    """The files of a split, sorted by class, and the place of each file's class in ``classes``."""

    split: EvaluatedSplit
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def folder_split(folder: Path, split: SplitChoice | None) -> FolderSplit:
    """The images of ``split``, by default validation; raises :class:`DataError` for a split that is not there."""
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if not parts:
        if split is not None:
            raise DataError(
                f"{shown_path(folder)}: has no folder `{_FOLDERS[split]}`, and no other splits; leave "
                f"{option('--split', 'split=')} out to evaluate all of its images"
            )
        return _of("whole", list_classes(folder))
    wanted = split or "validation"
    return _trained_on(folder, wanted) if "train" in parts else _one_of(folder, wanted, parts)


def _one_of(folder: Path, split: SplitChoice, parts: Sequence[str]) -> FolderSplit:
    if _FOLDERS[split] not in parts:
        raise DataError(
            f"{shown_path(folder)}: has no folder `{_FOLDERS[split]}` for the {split} split, only {', '.join(parts)}"
        )
    return _of(split, list_classes(folder / _FOLDERS[split]))


def _trained_on(folder: Path, split: SplitChoice) -> FolderSplit:
    """The split that a training on this folder would use."""
    listing = list_folder(folder)
    if split == "test" or (split == "validation" and "val" in listing):
        return _of(split, listing[_FOLDERS[split]])
    train = _of("train", listing["train"])
    if "val" in listing:
        return train
    kept, held_out = stratified_holdout(torch.tensor(train.labels), HELD_OUT_FRACTION, 0, train.classes)
    chosen = (kept if split == "train" else held_out).tolist()
    files, labels = (tuple(each[index] for index in chosen) for each in (train.files, train.labels))
    return FolderSplit(split, train.classes, files, labels)


def _of(split: EvaluatedSplit, by_class: Mapping[str, Sequence[Path]]) -> FolderSplit:
    files = tuple(path for paths in by_class.values() for path in paths)
    labels = tuple(label for label, paths in enumerate(by_class.values()) for _ in paths)
    return FolderSplit(split, tuple(by_class), files, labels)
