"""Every file that sepnas reads: complete from the schema to the refusal."""

from __future__ import annotations

import pytest

from sepnas.cli.describe import DOCUMENTS
from sepnas.errors import SpecError, VersionError
from sepnas.runtime.trace import Trace
from sepnas.search.folder import Front, SearchRun
from sepnas.spec.dataset import DataFacts
from sepnas.spec.document import Document
from sepnas.train.recipe import RECIPES, Recipe

ALL = sorted({*DOCUMENTS.values(), DataFacts, Front, Recipe, SearchRun, Trace}, key=lambda each: each.format_name)


@pytest.mark.parametrize("document", ALL, ids=lambda each: each.format_name)
def test_newer_version_is_refused(document: type[Document]) -> None:
    """A file of a newer version is refused with its format and what to do."""
    with pytest.raises(VersionError, match=rf"x\.json: field `version`: .*{document.format_name}.*update sepnas"):
        document.from_data({"version": document.current_version + 1}, "x.json")


@pytest.mark.parametrize("document", ALL, ids=lambda each: each.format_name)
def test_unknown_key_is_refused(document: type[Document]) -> None:
    """A key that no field has is refused by name, and the known ones are listed."""
    with pytest.raises(SpecError, match=r"x\.json: field `colour`: unknown key; allowed: .*version"):
        document.from_data({"colour": "red"}, "x.json")


@pytest.mark.parametrize("document", ALL, ids=lambda each: each.format_name)
@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_other_shapes_are_refused(document: type[Document], data: object) -> None:
    """What is no mapping is no document."""
    with pytest.raises(SpecError, match=rf"x\.json: a {document.format_name} document is a mapping of fields"):
        document.from_data(data, "x.json")


def test_formats_differ() -> None:
    """No two documents share a format, and the listed schemas are among them."""
    names = [document.format_name for document in ALL]
    assert len(names) == len(set(names))
    assert {f"sepnas.{name}" for name in ("cluster", "policy", "architecture", "search-space")} <= set(names)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda each: each.name)
def test_named_recipes_round_trip(recipe: Recipe) -> None:
    """A named recipe that is written and read again is the same."""
    assert Recipe.from_data(recipe.to_data()) == recipe
