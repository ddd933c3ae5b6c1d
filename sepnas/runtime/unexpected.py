"""Threads that must survive unexpected errors in one iteration."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sepnas.terminal import one_line

MAX_KINDS = 100
_log = logging.getLogger("sepnas.keeper")
_said: set[tuple[str, str]] = set()
_lock = threading.Lock()


@contextlib.contextmanager
def survives(keeper: str) -> Iterator[None]:
    """Suppress an unexpected error in the block; log it once for each keeper and error type."""
    try:
        yield
    except Exception as error:
        say_once(keeper, error)


def say_once(keeper: str, error: BaseException) -> None:
    """Log that a keeper met an error and continues; once for each error type."""
    kind = (keeper, type(error).__name__)
    with _lock:
        if kind in _said or len(_said) >= MAX_KINDS:
            return
        _said.add(kind)
    with contextlib.suppress(Exception):
        text = one_line(f"{keeper}: unexpected {kind[1]}, it goes on: {error}")
        _log.error("%s", text, exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)


def start_thread(target: Callable[..., Any], *arguments: Any, name: str | None = None) -> bool:
    """Start a daemon thread; return False if the system has no thread left."""
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True
