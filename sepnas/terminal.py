"""Escapes untrusted text (from devices, files and their names, libraries) for a terminal or a log line.

This is the only place that escapes characters which control the terminal, reorder its text or forge a line.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_JOINERS = frozenset("\u200c\u200d")
"""Format characters that are part of words in Persian and Indic scripts, and of emoji."""
_LAYOUT = frozenset("\n\t")


def printable(text: str) -> str:
    r"""Escape controls (C0, C1), bidirectional overrides and lone surrogates, such as ``\x1b``; keep line breaks and
    tabs."""
    return text if text.isprintable() else "".join(c if c in _LAYOUT else _shown(c) for c in text)


def one_line(text: str) -> str:
    r"""Like :func:`printable`, for one line: line breaks and tabs are escaped too."""
    return text if text.isprintable() else "".join(map(_shown, text))


def print_line(text: str, file: TextIO | None = None) -> None:
    """Print one line on stdout, or to ``file``, without wrapping, and flush."""
    print(one_line(text), file=file or sys.stdout, flush=True)


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
