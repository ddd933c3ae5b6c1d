"""Text of others (devices, files and their names, libraries) on its way to a terminal or a log line.

What would steer the terminal, reorder its text or forge a line is escaped here, and nowhere else.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_JOINERS = frozenset("\u200c\u200d")
"""Format characters that belong to words, in Persian and the scripts of India, and to emoji."""
_LAYOUT = frozenset("\n\t")


def printable(text: str) -> str:
    r"""The text with controls (C0, C1), bidirectional overrides and lone surrogates escaped, as ``\x1b``; line breaks
    and tabs stay."""
    return text if text.isprintable() else "".join(c if c in _LAYOUT else _shown(c) for c in text)


def one_line(text: str) -> str:
    r"""The same for a field of one line: line breaks and tabs are escaped, too."""
    return text if text.isprintable() else "".join(map(_shown, text))


def print_line(text: str, file: TextIO | None = None) -> None:
    """One line on stdout, or on ``file``, at once and as long as it is."""
    print(one_line(text), file=file or sys.stdout, flush=True)


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
