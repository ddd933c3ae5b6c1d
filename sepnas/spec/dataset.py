"""Facts about the data that a trained network needs: its classes, and how images were normalised."""

from __future__ import annotations

from typing import Annotated, ClassVar
from unicodedata import category

from pydantic import Field

from sepnas.spec.document import Document
from sepnas.spec.figures import MAX_CLASSES, Fit

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, bytes that are not UTF-8, and line breaks."""


def class_name_problem(name: str) -> str:
    """Why a class cannot have this name, phrased to follow "a class"; empty if it can."""
    if not name.strip():
        return "of blanks only"
    return "with characters that cannot be shown" if any(category(letter) in _UNSHOWN for letter in name) else ""


class DataFacts(Document):
    """Written beside a checkpoint as ``data.json``; ``mean`` and ``std`` are per channel, for values in 0..1.

    ``resize`` is how images of another size were scaled; None if all had the network's size. ``content_sha256`` is
    the hash of the training and validation data; None in files from before it was recorded.
    """

    format_name: ClassVar[str] = "sepnas.data"

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Fit | None = None
    content_sha256: str | None = None
