"""Which networks are tried: torchvision's, and the smallest one of each module file of timm."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sepnas.train.vision import import_timm, import_torchvision

TIMM_LIST = Path(__file__).resolve().parent / "timm.json"
_NO_TASK = ("quantization.", "detection.", "optical_flow.")
SIDE = 224
"""Convolutional networks of torchvision are tried at this side in pixels, whatever they were trained at."""


@dataclass(frozen=True)
class Candidate:
    """A network by its source; ``shape`` None: as its configuration says."""

    source: str
    group: str
    shape: tuple[int, ...] | None = None


def candidates() -> list[Candidate]:
    """All networks, timm's in order of their size."""
    rows = json.loads(TIMM_LIST.read_text())
    timm = [Candidate(f"timm:{row['network']}", "timm") for row in sorted(rows, key=lambda row: row["parameters"])]
    return timm + torchvision_candidates()


def torchvision_candidates() -> list[Candidate]:
    """torchvision's networks for classification, segmentation and video."""
    models: Any = import_torchvision("models")
    found = []
    for name in models.list_models():
        home = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        if (home + ".").startswith(_NO_TASK):
            continue
        group = home.partition(".")[0] if "." in home else "classification"
        own_side = group == "video" or name.startswith(("inception", "vit_", "swin", "maxvit"))
        found.append(Candidate(f"torchvision:{name}", f"torchvision {group}", None if own_side else (3, SIDE, SIDE)))
    return found


def list_timm() -> None:
    """Write the list of the smallest networks; building all of timm's takes ten minutes, without memory for weights."""
    import_timm("models")
    timm: Any = importlib.import_module("timm")
    smallest: dict[str, tuple[int, str]] = {}
    for name in timm.list_models():
        file = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        try:
            with torch.device("meta"):
                size = sum(x.numel() for x in timm.create_model(name).parameters())
        except Exception:  # some cannot be built without values; a file has others
            continue
        smallest[file] = min(smallest.get(file, (size, name)), (size, name))
    rows = [{"file": file, "network": name, "parameters": size} for file, (size, name) in sorted(smallest.items())]
    TIMM_LIST.write_text(json.dumps(rows, indent=1) + "\n")
