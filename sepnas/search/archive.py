"""The candidates on disk: one JSON line each, appended after evaluation. This file is the state of a search."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Generic

from sepnas.errors import SpecError, StorageError
from sepnas.search.candidate import EvaluatedT
from sepnas.spec.document import write_text
from sepnas.spec.files import is_there

_GO_ON = "make room, then resume the search: what was evaluated before is kept"


class SearchWarning(UserWarning):
    """A problem that the user should know about and that does not stop the search."""


class Archive(Generic[EvaluatedT]):
    """``candidates.jsonl``, read once and then appended to; lookup is by key.

    ``parse`` makes a candidate of a line; it raises ``ValueError`` or ``SpecError`` for a damaged one. The first append
    removes damaged lines.
    """

    def __init__(self, path: Path, parse: Callable[[str], EvaluatedT]) -> None:
        self.path = path
        self._by_key: dict[str, EvaluatedT] = {}
        self._damaged = False
        if is_there(path):
            self._read(parse)

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> EvaluatedT | None:
        return self._by_key.get(key)

    def candidates(self) -> list[EvaluatedT]:
        """All candidates, sorted by index."""
        return sorted(self._by_key.values(), key=lambda candidate: candidate.index)

    def append(self, candidate: EvaluatedT) -> None:
        """Add a candidate in a single write, so that an interrupted search leaves complete lines."""
        if self._damaged:
            write_text(self.path, "".join(kept.line() + "\n" for kept in self._by_key.values()))
            self._damaged = False
        line = (candidate.line() + "\n").encode()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                written = os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error.strerror or error}; {_GO_ON}") from error
        if written < len(line):
            raise StorageError(f"{self.path}: cannot be written: the disk is full; {_GO_ON}")
        self._by_key[candidate.key] = candidate

    def _read(self, parse: Callable[[str], EvaluatedT]) -> None:
        """Load every valid line and warn about each damaged one."""
        text = self.path.read_bytes().decode(errors="replace")
        self._damaged = bool(text) and not text.endswith("\n")
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                candidate = parse(line)
            except (ValueError, SpecError) as error:
                self._damaged = True
                reason = str(error).splitlines()[0]
                warnings.warn(f"{self.path}: line {number} is damaged and left out ({reason})", SearchWarning, 3)
            else:
                self._by_key.setdefault(candidate.key, candidate)
