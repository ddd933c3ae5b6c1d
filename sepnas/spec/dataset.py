"""What a trained network must remember of its data: the classes, and how images were normalised."""

from __future__ import annotations

from typing import Annotated, ClassVar
from unicodedata import category

from pydantic import Field

from sepnas.spec.document import Document
from sepnas.spec.figures import MAX_CLASSES, Fit

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, bytes that are not UTF-8, and line breaks."""


def class_name_problem(name: str) -> str:
    """What keeps a class from having this name, in words that follow "a class"; empty where nothing does."""
    if not name.strip():
        return "of blanks only"
    return "in letters that cannot be shown" if any(category(letter) in _UNSHOWN for letter in name) else ""


class DataFacts(Document):
    """Written beside a checkpoint as ``data.json``; ``mean`` and ``std`` are per channel, for values in 0..1.

    ``resize`` is how images of another size were scaled; None where all had the network's. ``content_sha256`` is of
    what was trained on and validated with; None in files of before it was kept.
    """

    format_name: ClassVar[str] = "sepnas.data"

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Fit | None = None
    content_sha256: str | None = None
