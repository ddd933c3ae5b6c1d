"""Separable neural networks: searched, trained, cut into shards and run over several devices."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepnas import api
    from sepnas.api import create_model, describe, export, load, simulate
    from sepnas.runtime.client.async_session import AsyncSession
    from sepnas.runtime.client.session import Session

__all__ = ["AsyncSession", "Session", "__version__", "api", "create_model", "describe", "export", "load", "simulate"]
__version__ = "0.1.0"

_PLACES = {
    **dict.fromkeys(("create_model", "describe", "export", "load", "simulate"), "sepnas.api"),
    "AsyncSession": "sepnas.runtime.client.async_session",
    "Session": "sepnas.runtime.client.session",
}


def __getattr__(name: str) -> Any:
    """Import an entry on first use, so that `import sepnas` takes milliseconds and needs no engine."""
    if name == "api":
        return import_module("sepnas.api")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'sepnas' has no attribute {name!r}")
