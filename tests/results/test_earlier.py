"""The tree of an earlier commit is written whole, and a commit that is not there is named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sepnas.errors import SpecError
from sepnas.results.earlier import extract_tree


def git(root: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(root), *names, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_earlier_tree_is_as_it_was(tmp_path: Path) -> None:
    """Changes since then, committed or not, are not in it."""
    root, folder = tmp_path / "repository", tmp_path / "earlier"
    root.mkdir()
    git(root, "init", "-q")
    (root / "file.txt").write_text("before")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    commit = git(root, "rev-parse", "HEAD")
    (root / "file.txt").write_text("after")
    (root / "more.txt").write_text("new")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "second")
    extract_tree(root, commit, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"file.txt": "before"}
    with pytest.raises(SpecError, match="--before abcdef0: "):
        extract_tree(root, "abcdef0", tmp_path / "other")
