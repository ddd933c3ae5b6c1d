"""What has been measured so far, in a file of JSON lines: an interrupted run goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Kept:
    """Results by key; the last one of a key counts. A line that was cut off is measured again."""

    def __init__(self, path: Path) -> None:
        self.path, self._found = path, dict[str, Any]()
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                each = json.loads(line)
            except ValueError:
                continue
            self._found[each["key"]] = each["value"]

    def get(self, key: str, measure: Callable[[], Any], again: bool = False) -> Any:
        """What is known by a key, measured if it is not, or ``again``."""
        if again or key not in self._found:
            value = measure()
            with self.path.open("a") as file:
                file.write("\n" * self._cut_off() + json.dumps({"key": key, "value": value}) + "\n")
            self._found[key] = value
        return self._found[key]

    def _cut_off(self) -> bool:
        text = self.path.read_text() if self.path.exists() else ""
        return bool(text) and not text.endswith("\n")
