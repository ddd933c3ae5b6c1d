"""What a trained network must remember of its data: the classes, and how images were normalised."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sepnas.spec.document import Document


class DataFacts(Document):
    """Written beside a checkpoint as ``data.json``; ``mean`` and ``std`` are per channel, for values in 0..1."""

    format_name: ClassVar[str] = "sepnas.data"

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
