"""Folder names find the classes of a network: by name, by index, by WordNet id, or not at all."""

from __future__ import annotations

import pytest

from sepnas.errors import DataError
from sepnas.measure.evaluation.class_matching import match_classes
from sepnas.train.vision import import_timm

PETS = ("cat, house cat", "dog", "Golden Retriever", "crane", "crane")


@pytest.mark.parametrize(
    ("found", "way", "indices"),
    [
        (("dog", "cat, house cat"), "name", (1, 0)),
        (("golden_retriever", "house cat"), "name", (2, 0)),
        (("4", "0"), "index", (4, 0)),
        (("dog",), "name", (1,)),
    ],
)
def test_classes_are_found(found: tuple[str, ...], way: str, indices: tuple[int, ...]) -> None:
    """Capitals and underscores do not matter, one name of a label is enough, and all classes are found in one way."""
    matched = match_classes(found, PETS, "folder:pets", only_names=False)
    assert (matched.way, matched.indices) == (way, indices)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (("dog", "horse", "cow"), r"2 of its 3 classes are none of the network's 5: 'horse', 'cow'; the network's are"),
        (("0", "5"), r"1 of its 2 classes are none of the network's 5: '5'"),
        (("dog", "1"), "1 of its 2 classes are none of the network's 5: '1'"),
        (("crane",), r"the class 'crane' may be each of the network's classes 3, 4; name its folder by the index"),
        (("dog", "Dog"), "'dog' and 'Dog' are both the network's class 1, 'dog'"),
    ],
)
def test_other_classes_are_refused(found: tuple[str, ...], message: str) -> None:
    """Classes that are unknown, ambiguous or the same are named, with their number."""
    with pytest.raises(DataError, match=message):
        match_classes(found, PETS, "folder:pets", only_names=False)


def test_an_index_is_no_name_of_a_runs_class() -> None:
    """Folders of another data set whose names happen to be numbers do not fit a run's classes."""
    with pytest.raises(DataError, match="2 of its 2 classes are none"):
        match_classes(("0", "1"), ("cat", "dog"), "folder:x", only_names=True)
    assert match_classes(("1", "0"), ("0", "1"), "folder:x", only_names=True).indices == (1, 0)


@pytest.mark.slow
def test_wordnet_ids_are_those_of_imagenet() -> None:
    """The ids of English springer and of tench, for a network with ImageNet's labels or without names."""
    info = import_timm("data").ImageNetInfo("imagenet-1k")
    for classes in (info.label_descriptions(), [str(index) for index in range(1000)]):
        matched = match_classes(("n02102040", "n01440764"), classes, "folder:x", only_names=False)
        assert (matched.way, matched.indices) == ("wordnet", (217, 0))
    with pytest.raises(DataError, match="2 of its 2 classes"):
        match_classes(("n02102040", "n01440764"), [f"flower {i}" for i in range(1000)], "folder:x", only_names=False)
