"""Every file that sepnas reads: complete from the schema to the refusal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sepnas
from sepnas.cli.schema import DOCUMENTS, document
from sepnas.errors import SpecError, VersionError
from sepnas.spec.document import Document
from sepnas.train.recipe import RECIPES, Recipe

ALL = [document(name) for name in DOCUMENTS]
SOURCES = Path(sepnas.__file__).parent.rglob("*.py")
WITHOUT_CONTENT = {"SealedDocument", "RunDocument", "DemoMarker"}


def test_every_document_has_a_schema() -> None:
    """`sepnas schema` knows every document that there is, and its schema names the format."""
    classes = {name for path in SOURCES for name in re.findall(r"^class (\w+)\(\w*Document\)", path.read_text(), re.M)}
    assert {each.__name__ for each in ALL} == classes - WITHOUT_CONTENT
    for each in ALL:
        assert each.model_json_schema()["properties"]["format"] == {"const": each.format_name}


@pytest.mark.parametrize("kind", ALL, ids=lambda each: each.format_name)
def test_newer_version_is_refused(kind: type[Document]) -> None:
    """A file of a newer version is refused with its format and what to do."""
    with pytest.raises(VersionError, match=rf"x\.json: field `version`: .*{kind.format_name}.*update sepnas"):
        kind.from_data({"version": kind.current_version + 1}, "x.json")


@pytest.mark.parametrize("kind", ALL, ids=lambda each: each.format_name)
def test_unknown_key_is_refused(kind: type[Document]) -> None:
    """A key that no field has is refused by name, and the known ones are listed."""
    with pytest.raises(SpecError, match=r"x\.json: field `colour`: unknown key; allowed: .*version"):
        kind.from_data({"colour": "red"}, "x.json")


@pytest.mark.parametrize("kind", ALL, ids=lambda each: each.format_name)
@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_other_shapes_are_refused(kind: type[Document], data: object) -> None:
    """What is no mapping is no document."""
    with pytest.raises(SpecError, match=rf"x\.json: a {kind.format_name} document is a mapping of fields"):
        kind.from_data(data, "x.json")


def test_formats_differ() -> None:
    """No two documents share a format, and the listed schemas are among them."""
    names = [kind.format_name for kind in ALL]
    assert len(names) == len(set(names))
    assert {f"sepnas.{name}" for name in ("cluster", "policy", "architecture", "search-space")} <= set(names)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda each: each.name)
def test_named_recipes_round_trip(recipe: Recipe) -> None:
    """A named recipe that is written and read again is the same."""
    assert Recipe.from_data(recipe.to_data()) == recipe
