"""Recognises files and folders of sepnas, for messages about one that was given for another; reads only their start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

from sepnas.errors import SpecError
from sepnas.spec.files import open_regular
from sepnas.spec.reading import read_document

Kind: TypeAlias = Literal["search", "exploration", "supernet", "run", "deployment", "device", "demo", "network", "file"]

WORDS: dict[Kind, str] = {
    "search": "the folder of a search (`sepnas search`)",
    "exploration": "the folder of an exploration (`sepnas explore`)",
    "supernet": "the supernet of a search, not a network that was trained",
    "run": "the folder of a training run (`sepnas train`)",
    "deployment": "a deployment (`sepnas export`)",
    "device": "the folder of one device of a deployment",
    "demo": "the folder of a demo, which has search/, training/ and deployment/ in it",
    "network": "an imported network (`sepnas import`)",
    "file": "a file",
}
_MARKS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("demo", ("demo.json",)),
    ("deployment", ("manifest.json",)),
    ("device", ("shard.json",)),
    ("search", ("run.json",)),
    ("run", ("architecture.json", "last.safetensors")),
    ("run", ("architecture.json", "best.safetensors")),
    ("network", ("graph.json", "weights.safetensors")),
    ("supernet", ("last.safetensors",)),
)
"""A folder that has all of these files is of that kind; the first match counts."""
_RUNS: dict[str, Kind] = {"exploration-run": "exploration"}
"""Folders with a ``run.json`` of another format than that of a search."""
_HEAD_BYTES = 2000
_FORMAT = re.compile(r"""^[\s{]*["']?format["']?\s*:\s*["']?sepnas\.([a-z-]{1,40})""", re.MULTILINE)

_LATE_FORMAT = re.compile(
    r"""^format\s*:\s*["']?sepnas\.([a-z-]{1,40})|"format"\s*:\s*"sepnas\.([a-z-]{1,40})\"""", re.MULTILINE
)


def recognise(path: Path) -> tuple[Kind, str] | None:
    """The kind and a phrase for it; None if the path does not exist or is not from sepnas."""
    try:
        if path.is_dir():
            found = next((kind for kind, names in _MARKS if all((path / n).is_file() for n in names)), None)
            kind = _RUNS.get(format_of(path / "run.json") or "", found) if found == "search" else found
            return (kind, WORDS[kind]) if kind else None
        return ("file", _words_of_file(path)) if path.is_file() else None
    except (OSError, ValueError):
        return None


def format_of(path: Path) -> str | None:
    """The ``format`` that a JSON or YAML file declares, without `sepnas.`; None if its head does not show one."""
    if path.suffix not in (".json", ".yaml", ".yml"):
        return None
    try:
        with open_regular(path) as file:
            found = _FORMAT.search(file.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace"))
    except (OSError, ValueError):  # ValueError: not a valid file name
        return None
    return found[1] if found else None


def late_format_of(path: Path) -> str | None:
    """The ``format`` that a file declares anywhere; its whole text is searched, but not parsed."""
    try:
        text = read_document(path).decode("utf-8-sig", errors="replace")
    except SpecError:
        return None
    found = _LATE_FORMAT.search(text)
    return found[1] or found[2] if found else None


def _words_of_file(path: Path) -> str:
    found = format_of(path)
    return f"a file of format sepnas.{found}" if found else WORDS["file"]
