"""Verbs that take groups of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from sepnas.cli.grouped import grouped


@dataclass(frozen=True)
class Inner:
    depth: Annotated[int, typer.Option(min=1)] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    width: Annotated[int | None, typer.Option("--width", "-w")] = None
    inner: Inner
    deep: Annotated[bool, typer.Option("--deep")] = False


def app_of(found: list[object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @grouped
    def verb(name: Annotated[str, typer.Argument()], *, first: int = 1, outer: Outer, last: int = 2) -> None:
        found.extend((name, first, outer, last))

    return app


def test_a_group_is_built_from_the_options_of_its_fields() -> None:
    """A verb gets its groups, nested ones included, with given and default values."""
    found: list[object] = []
    result = CliRunner().invoke(app_of(found), ["x", "-w", "5", "--depth", "4", "--last", "7"])
    assert result.exit_code == 0, result.output
    assert found == ["x", 1, Outer(width=5, inner=Inner(depth=4), deep=False), 7]


def test_the_fields_of_a_group_stand_where_the_group_stands() -> None:
    """The help lists options in the order of the signature, a group's fields in its place."""
    output = CliRunner().invoke(app_of([]), ["--help"]).output
    places = [output.index(option) for option in ("--first", "--width", "--depth", "--deep", "--last")]
    assert places == sorted(places)


def test_a_wrong_value_in_a_group_names_its_option() -> None:
    """The bounds of a group's field are those of its option."""
    result = CliRunner().invoke(app_of([]), ["x", "--depth", "0"])
    assert result.exit_code == 2
    assert "--depth" in result.output


def test_two_options_of_one_name_are_refused() -> None:
    """Groups that would define an option twice are a mistake of the verb."""
    with pytest.raises(TypeError, match="verb: options defined twice: depth"):

        @grouped
        def verb(depth: int, inner: Inner) -> None: ...
