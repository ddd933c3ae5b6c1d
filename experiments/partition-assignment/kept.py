"""What has been measured so far, in a file of JSON lines: an interrupted run goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any


def digest_of(files: Iterable[Path]) -> str:
    """A digest of files' names and contents."""
    found = sha256()
    for path in sorted(files):
        found.update(path.name.encode() + b"\n" + path.read_bytes())
    return found.hexdigest()[:16]


class Kept:
    """Results by key, of which the last one counts. Those of other ``code`` and lines that were cut off do not."""

    def __init__(self, path: Path, code: str) -> None:
        self._path, self._code, self._found = path, code, dict[str, Any]()
        text = path.read_text() if path.exists() else ""
        self._begin = "" if text.endswith("\n") or not text else "\n"
        for line in text.splitlines():
            try:
                each = json.loads(line)
            except ValueError:
                continue
            if each["code"] == code:
                self._found[each["key"]] = each["value"]

    def get(self, key: str, measure: Callable[[], Any], again: bool = False) -> Any:
        """What is known by a key, measured if it is not, or ``again``."""
        if again or key not in self._found:
            self._found[key] = measure()
            line = json.dumps({"key": key, "code": self._code, "value": self._found[key]})
            with self._path.open("a") as file:
                file.write(f"{self._begin}{line}\n")
            self._begin = ""
        return self._found[key]
