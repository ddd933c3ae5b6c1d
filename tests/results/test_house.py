"""Counts of a source tree, as the experiment `house` makes them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sepnas.errors import SpecError

HOUSE = Path(__file__).parents[2] / "experiments" / "house"
SHARED = "\n".join(f"    x = step{number}(x)" for number in range(6))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The experiment's module that counts."""
    monkeypatch.syspath_prepend(HOUSE)
    yield importlib.import_module("tree")
    sys.modules.pop("tree", None)  # a name that another experiment may have too


def tree_of(counted: ModuleType, root: Path, **files: str) -> Any:
    (root / "pyproject.toml").write_text("[[tool.importlinter.contracts]]\n" * 2)
    (root / "house").mkdir()
    for name, text in ({"__init__": ""} | files).items():
        (root / "house" / f"{name}.py").write_text(text)
    return counted.SourceTree(root, "house")


def test_functions_are_measured_with_and_without_their_docstring(counted: ModuleType, tmp_path: Path) -> None:
    """The length of a function counts all of its lines; methods and nested functions count too."""
    body = '"""One.\n\n        Two.\n        """\n        def g(): ...\n        return g\n'
    text = f"class A:\n    def f(self):\n        {body}"
    tree = tree_of(counted, tmp_path, a=text)
    assert [(each.place, each.lines, each.code_lines) for each in tree.functions] == [
        ("house.a.f", 7, 3),
        ("house.a.g", 1, 1),
    ]
    assert tree.file_lines == {"house/__init__.py": 0, "house/a.py": 8}
    assert tree.contracts() == 2


def test_modules_that_import_each_other_are_a_circle(counted: ModuleType, tmp_path: Path) -> None:
    """Imports at the top count, also in `try`; those in functions and for type checkers do not."""
    late = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house import a\ndef f():\n    import house.a\n"
    )
    tree = tree_of(
        counted, tmp_path, a="from house.b import x\n", b="try:\n    import house.c\nexcept ImportError: ...\n",
        c="from house import a\n", d="from house import a, e\n", e=late,
    )  # fmt: skip
    assert tree.circles() == [["house.a", "house.b", "house.c"]]


def test_public_classes_of_one_name_are_found(counted: ModuleType, tmp_path: Path) -> None:
    """Two modules may share private names; a public name belongs to one module."""
    tree = tree_of(
        counted, tmp_path, a="class A: ...\nclass _B: ...\n", b="class A: ...\nclass _B: ...\nclass C: ...\n"
    )
    assert tree.classes_of_one_name() == {"A": ["house.a", "house.b"]}


def test_six_lines_that_stand_twice_are_two_places(counted: ModuleType, tmp_path: Path) -> None:
    """Equal code is found under another indentation; five lines, imports and docstrings are not."""
    indented = SHARED.replace("    ", "        ")
    tree = tree_of(
        counted, tmp_path, a=f"def f(x):\n{SHARED}\n    return 1\n",
        b=f'import a1\n\ndef g(x):\n    """Text."""\n    if x:\n{indented}\n    return 2\n',
        c="\n".join(["def h(x):", *SHARED.splitlines()[:5], "    return 3", ""]),
    )  # fmt: skip
    assert tree.repeated() == ["house/a.py:2", "house/b.py:6"]


def test_sepnas_has_neither_circles_nor_two_classes_of_one_name(counted: ModuleType) -> None:
    """In the package itself a public name means one class, and modules import downward only."""
    tree = counted.SourceTree(HOUSE.parent.parent, "sepnas")
    assert tree.classes_of_one_name() == {}
    assert tree.circles() == []


def test_the_files_of_a_change_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of the package are counted and named, all others listed; a kind without a commit has no count."""
    monkeypatch.syspath_prepend(HOUSE)
    changes = importlib.import_module("changes")
    sys.modules.pop("changes")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in ("house/known.py", "tests/test_known.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "an objective"], check=True)
    rows = {row["change"]: row for row in changes.touched(tmp_path, "house", {"objective": "HEAD"})}
    assert rows["objective"]["files_of_the_package"] == 1
    assert (rows["objective"]["package"], rows["objective"]["others"]) == (
        "house/known.py", "README.md, tests/test_known.py",
    )  # fmt: skip
    assert rows["backbone"]["files_of_the_package"] is None
    with pytest.raises(SpecError, match="--change backbone=nothing: "):
        changes.touched(tmp_path, "house", {"backbone": "nothing"})
    with pytest.raises(SpecError, match="expected KIND=COMMIT"):
        changes.chosen_commits(tmp_path / "none.json", ["house=HEAD"])
