"""The only place that imports torchvision, and timm, which needs it.

PyPI's torchvision is linked against CUDA. Beside a CPU build of torch its operators do not load, and its import
fails with ``operator torchvision::nms does not exist``. Declaring the schemas of the two operators that it uses
on import is enough for sepnas. If the operators load, nothing may be declared: torch refuses a second declaration.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sepnas.errors import TrainingError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision(submodule: str = "") -> Any:
    """``torchvision`` or a submodule of it, such as ``datasets`` or ``transforms.v2``."""
    _declare_missing_operators()
    return _import("torchvision", f"torchvision.{submodule}" if submodule else "torchvision")


def import_timm(submodule: str) -> Any:
    """A submodule of timm, such as ``optim``; the first import takes seconds."""
    _declare_missing_operators()
    return _import("timm", f"timm.{submodule}")


def _import(package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise TrainingError(f"{package} is not installed; get it with: pip install {package}") from None


@lru_cache(maxsize=1)
def _declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision needs on import; the cache keeps the declarations alive."""
    if "torchvision" in sys.modules or _operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _operators_load() -> bool:
    """Whether torchvision's own operators load beside this torch (loading them twice is harmless)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for path in Path(spec.origin).parent.glob("_C*"):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            except OSError:
                continue
            return True
    return False
