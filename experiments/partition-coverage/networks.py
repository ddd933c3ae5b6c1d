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
SIDE = 128
"""Networks that take images of any size are tried at this side in pixels, whatever they were trained at."""
CLIP = (3, 8, 64, 64)
"""Video networks that take clips of any size are tried at this one."""
_OWN_SHAPE = ("vit_", "maxvit", "mvit_", "s3d")
"""The beginnings of torchvision's networks that take images or clips of one size only."""


@dataclass(frozen=True)
class Candidate:
    """A network by its source, its parameters, and the shape to try it at; None: as its configuration says."""

    source: str
    group: str
    parameters: int
    shape: tuple[int, ...] | None = None


def candidates() -> list[Candidate]:
    """All networks, the smallest first."""
    return sorted([*_timm_candidates(), *_torchvision_candidates()], key=lambda each: (each.parameters, each.source))


def _timm_candidates() -> list[Candidate]:
    """The networks of ``timm.json``; those without a fixed input size are made smaller."""
    import_timm("models")
    timm: Any = importlib.import_module("timm")
    return [
        Candidate(f"timm:{row['network']}", "timm", row["parameters"], _timm_shape(timm, row["network"]))
        for row in json.loads(TIMM_LIST.read_text())
    ]


def _timm_shape(timm: Any, name: str) -> tuple[int, ...] | None:
    config = timm.get_pretrained_cfg(name)
    if config is None or config.fixed_input_size or config.input_size[-1] <= SIDE:
        return None
    least = config.min_input_size or config.input_size
    side = max(SIDE, least[-1]) if config.min_input_size else SIDE
    return (config.input_size[0], side, side)


def _torchvision_candidates() -> list[Candidate]:
    """torchvision's networks for classification, segmentation and video."""
    models: Any = import_torchvision("models")
    found = []
    for name in models.list_models():
        home = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        if (home + ".").startswith(_NO_TASK):
            continue
        group = home.partition(".")[0] if "." in home else "classification"
        shape = None if name.startswith(_OWN_SHAPE) else CLIP if group == "video" else (3, SIDE, SIDE)
        parameters = models.get_model_weights(name).DEFAULT.meta["num_params"]
        found.append(Candidate(f"torchvision:{name}", f"torchvision {group}", parameters, shape))
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
