"""Finds the classes of a data set among those of a network: by name, by index, or by WordNet id."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepnas.errors import DataError
from sepnas.spec.document import few, short
from sepnas.spec.evaluation import ClassMatch
from sepnas.units import format_count

_WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
_SHOWN = 5
_Finder = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class MatchedClasses:
    """Of each class of the data its index among the network's classes, and how it was found."""

    way: ClassMatch
    indices: tuple[int, ...]


def match_classes(found: Sequence[str], classes: Sequence[str], data: str, only_names: bool) -> MatchedClasses:
    """Find every class of ``data`` in the same way: by name or, unless ``only_names``, by index or WordNet id.

    Underscores and capitals do not matter, and one of a label's names (``English springer, English springer spaniel``)
    is enough. Raises :class:`DataError` that names the classes that are not found, or are found twice.
    """
    ways: dict[ClassMatch, _Finder] = {"name": _by_name(classes)}
    if not only_names:
        ways["index"] = lambda text: [int(text)] if _is_index(text, len(classes)) else []
        if all(map(_WORDNET_ID.fullmatch, found)):
            ways["wordnet"] = _by_wordnet(classes)
    tried = {way: [list(find(name)) for name in found] for way, find in ways.items()}
    best = max(tried, key=lambda way: sum(map(bool, tried[way])))
    _refuse_unknown([name for name, places in zip(found, tried[best], strict=True) if not places], found, classes, data)
    for name, places in zip(found, tried[best], strict=True):
        if len(places) > 1:
            raise DataError(
                f"data {data}: the class {short(name)} may be each of the network's classes {few(places)}; name its "
                "folder by the index"
            )
    indices = tuple(places[0] for places in tried[best])
    _refuse_twice(found, indices, classes, data)
    return MatchedClasses(best, indices)


def _refuse_unknown(unknown: Sequence[str], found: Sequence[str], classes: Sequence[str], data: str) -> None:
    if unknown:
        names = few([short(name) for name in unknown], _SHOWN)
        known = few([short(name) for name in classes], _SHOWN)
        raise DataError(
            f"data {data}: {len(unknown):,} of its {format_count(len(found), 'class')} are none of the network's "
            f"{len(classes):,}: {names}; the network's are {known}"
        )


def _refuse_twice(found: Sequence[str], indices: Sequence[int], classes: Sequence[str], data: str) -> None:
    first: dict[int, str] = {}
    for name, index in zip(found, indices, strict=True):
        if index in first:
            raise DataError(
                f"data {data}: {short(first[index])} and {short(name)} are both the network's class {index}, "
                f"{short(classes[index])}"
            )
        first[index] = name


def _is_index(text: str, num_classes: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < num_classes


def _by_name(classes: Sequence[str]) -> _Finder:
    exact, whole, parts = (dict[str, list[int]](), dict[str, list[int]](), dict[str, list[int]]())
    for index, label in enumerate(classes):
        exact.setdefault(label, []).append(index)
        whole.setdefault(_plain(label), []).append(index)
        for part in {_plain(each) for each in label.split(",")}:
            parts.setdefault(part, []).append(index)
    return lambda text: exact.get(text) or whole.get(_plain(text)) or parts.get(_plain(text)) or []


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def _by_wordnet(classes: Sequence[str]) -> _Finder:
    """The places of WordNet ids among ImageNet's classes, by timm's lists; none for a network of other classes."""
    from sepnas.train.vision import import_timm

    info = import_timm("data")
    subset = info.infer_imagenet_subset({"num_classes": len(classes)})
    if subset is None:
        return lambda text: []
    lists = info.ImageNetInfo(subset)
    if not _are_labels(classes, lists.label_descriptions()):
        return lambda text: []
    places = {name: index for index, name in enumerate(lists.label_names())}
    return lambda text: [places[text]] if text in places else []


def _are_labels(classes: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether most classes have one of the names of the label at their place; classes without names may be any."""
    if list(classes) == [str(index) for index in range(len(classes))]:
        return True
    shared = sum(
        bool({_plain(part) for part in name.split(",")} & {_plain(part) for part in label.split(",")})
        for name, label in zip(classes, labels, strict=True)
    )
    return 2 * shared > len(classes)
