"""What was measured, kept line by line: a run that is cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Cells:
    """One line for each plan on each cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.found: dict[str, Row] = {line["key"]: line["row"] for line in lines}

    def get(self, key: str, measure: Callable[[], Row]) -> Row:
        """The row that is kept, or ``measure()``."""
        if key not in self.found:
            row = self.found[key] = measure()
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "row": row}) + "\n")
        return self.found[key]
