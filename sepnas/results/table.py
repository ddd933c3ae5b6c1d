"""Collects all results of the repository; a result whose command no longer exists is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.errors import SpecError
from sepnas.spec.result import ResultFile

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One result of a folder of ``experiments/``; ``result`` is None until the folder has one."""

    slug: str
    path: Path
    result: ResultFile | None


def collect_results(root: str | Path, verbs: Collection[str]) -> list[Experiment]:
    """Every experiment below ``root/experiments``, by name. An experiment with several variants has one result for
    each, ``result-WAY.json``.

    Args:
        root: the repository.
        verbs: the existing verbs of ``sepnas``.

    Raises :class:`SpecError` that names the file if a result is damaged or its command no longer exists.
    """
    root = Path(root)
    folders = sorted(path for path in (root / "experiments").glob("*") if path.is_dir())
    kept = [folder for folder in folders if not folder.name.startswith((".", "_"))]
    return [_experiment(root, path, verbs) for folder in kept for path in _results(folder)]


def _results(folder: Path) -> list[Path]:
    found = sorted((*folder.glob("result.json"), *folder.glob("result-*.json")))
    return found or [folder / "result.json"]


def _experiment(root: Path, path: Path, verbs: Collection[str]) -> Experiment:
    way = path.stem.removeprefix("result").removeprefix("-")
    name = f"{path.parent.name}, {way}" if way else path.parent.name
    if not path.exists():
        return Experiment(name, path, None)
    result = ResultFile.load(path)
    try:
        check_command(result.command, root, verbs)
    except SpecError as error:
        raise SpecError(f"{path}: field `command`: {error}") from None
    return Experiment(name, path, result)


def check_command(command: str, root: Path, verbs: Collection[str]) -> None:
    """Raise unless the repository still has the command.

    A command is ``sepnas VERB ...``, ``make TARGET`` or ``python PATH ...``, or several joined by ``&&``; it may start
    with assignments of environment variables.
    """
    for part in command.split("&&"):
        try:
            words = shlex.split(part)
        except ValueError as error:
            raise SpecError(f"{command!r} is not a command line: {error}") from None
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        _check_words(words, command, root, verbs)


def _check_words(words: list[str], command: str, root: Path, verbs: Collection[str]) -> None:
    program, *arguments = words or [""]
    if program == "sepnas" and arguments:
        if arguments[0] not in verbs:
            allowed = ", ".join(sorted(verbs))
            raise SpecError(f"sepnas has no command {arguments[0]!r} (any more); it has {allowed}; run it again")
    elif program == "make" and arguments:
        _check_targets(arguments, root / "Makefile")
    elif program == "python" and arguments:
        if not (root / arguments[0]).is_file():
            raise SpecError(f"{arguments[0]!r} is not a file of the repository (any more); run it again")
    else:
        raise SpecError(f"expected `sepnas VERB ...`, `make TARGET` or `python PATH ...`, got {command!r}")


def _check_targets(arguments: list[str], makefile: Path) -> None:
    text = makefile.read_text(encoding="utf-8") if makefile.is_file() else ""
    known = set(_targets(text))
    wanted = [word for word in arguments if not word.startswith("-") and "=" not in word]
    for target in wanted:
        if target not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise SpecError(f"{makefile.name} has no target {target!r} (any more); it has {allowed}; run it again")


def _targets(makefile: str) -> Iterator[str]:
    for line in makefile.splitlines():
        found = re.match(r"([^\s#:=][^#:=]*):(?!=)", line)
        for name in found[1].split() if found else ():
            if not name.startswith("."):
                yield name


def results_data(experiments: Iterable[Experiment]) -> list[dict[str, Any]]:
    """The content of all result files, by experiment; ``result`` is None if there is none yet."""
    return [{"experiment": x.slug, "result": x.result.to_data() if x.result else None} for x in experiments]
