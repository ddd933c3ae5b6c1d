"""What is found, by validation, of trainings that choose a recipe; it is kept in the repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepnas.spec.document import write_text
from sepnas.train.recipe import Recipe
from sepnas.train.record import EpochRecord


def kept_of(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """What was found, if it was by this very recipe."""
    data = json.loads(path.read_text()) if path.exists() else {}
    return data if data.get("recipe") == recipe.to_data() else None


def keep(path: Path, recipe: Recipe, history: Sequence[EpochRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"val_by_epoch": [each.val_accuracy for each in history], "recipe": recipe.to_data()}
    write_text(path, json.dumps(found, indent=2) + "\n")
