"""Separable neural networks: searched, trained, cut into shards and run over several devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepnas.runtime.client.async_session import AsyncSession
    from sepnas.runtime.client.session import Session

__all__ = ["AsyncSession", "Session", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late, so that `import sepnas` costs nothing and needs no engine.
    if name == "Session":
        from sepnas.runtime.client.session import Session

        return Session
    if name == "AsyncSession":
        from sepnas.runtime.client.async_session import AsyncSession

        return AsyncSession
    raise AttributeError(f"module 'sepnas' has no attribute {name!r}")
