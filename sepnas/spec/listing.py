"""Problems and paths in messages."""

from __future__ import annotations

import os
from collections.abc import Sequence

MAX_LISTED = 20


def listed(problems: Sequence[object], what: str) -> str:
    """A single problem as it is; several on a line each below ``what``, up to 20 of them."""
    if len(problems) == 1:
        return str(problems[0])
    more = [f"... and {len(problems) - MAX_LISTED:,} more"] if len(problems) > MAX_LISTED else []
    return "\n  ".join([f"{what}:", *map(str, problems[:MAX_LISTED]), *more])


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path for a message, with bytes that are not UTF-8 escaped, such as ``caf\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
