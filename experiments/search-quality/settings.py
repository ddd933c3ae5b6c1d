"""What cells are made with. Cells of other settings, data or code lie in another folder, so none can be stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from cells import CLUSTER, SPACE, SUPERNET_EPOCHS, SUPERNET_SEED, load_data, recipe_for

import sepnas
from sepnas.errors import SpecError
from sepnas.spec.document import read_data, write_text

SETTINGS_FILE = "settings.json"
CODE = ("spec", "plan", "cost", "nets", "train", "search")
"""The packages that a cell's plans, costs and accuracies come from."""


def settings() -> dict[str, Any]:
    """Everything that a cell depends on but its strategy and seed, which name its folder."""
    data = load_data()
    looked_at = (x.numpy().tobytes() for split in (data.train, data.val) for x in (split.images, split.labels))
    root = Path(sepnas.__file__).parent
    sources = (path.read_bytes() for package in CODE for path in sorted((root / package).rglob("*.py")))
    return {
        "space": SPACE.to_data(),
        "cluster": CLUSTER.to_data(),
        "supernet_recipe": recipe_for(data, SUPERNET_EPOCHS).to_data(),
        "supernet_seed": SUPERNET_SEED,
        "data_sha256": _sha256(looked_at),
        "code_sha256": _sha256(sources),
        "torch": torch.__version__,
    }


def cells_folder(runs: Path) -> Path:
    """The folder below ``runs`` for cells of the present settings, which are written beside them.

    Raises :class:`SpecError` when the folder says that its cells were made with others.
    """
    made = settings()
    folder = runs / _sha256([json.dumps(made, sort_keys=True).encode()])[:12]
    path = folder / SETTINGS_FILE
    if path.exists() and read_data(path) != made:
        raise SpecError(f"{path}: these cells were made with other settings; remove {folder} to make them anew")
    write_text(path, json.dumps(made, indent=2) + "\n")
    return folder


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
