"""Usage errors and help texts say what to do, in the words of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["front", ".", "--sort", "makespan"], "'--sort': 'makespan' is not one of"),
        (["infer", "deployment", "a.png", "--deadline", "1us"], "'--deadline': must be at least 1 ms"),
    ],
)
def test_a_wrong_value_is_explained_without_python_words(arguments: list[str], says: str, tmp_path: Path) -> None:
    """The message names the option and what is allowed, and begins with nothing else."""
    said = told(*arguments)
    assert says in said
    assert "Value error" not in said


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("search", "the recipe's: 0; 0.1 with accuracy_one_lost"),
        ("front", "an unquoted < makes the shell read a file"),
        ("export", "its messages may differ, which changes the accuracy"),
        ("train", "8 bytes a sample"),
    ],
)
def test_help_gives_the_cost_of_an_option(verb: str, says: str) -> None:
    """The help of a verb holds the default or the consequence that its options have."""
    result = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "600", "TERMINAL_WIDTH": "600"})
    assert says in " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
