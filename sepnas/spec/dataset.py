"""What a trained network must remember of its data: the classes, and how images were normalised."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sepnas.spec.document import Document
from sepnas.spec.image_file import Fit


class DataFacts(Document):
    """Written beside a checkpoint as ``data.json``; ``mean`` and ``std`` are per channel, for values in 0..1.

    ``resize`` is how images of another size were scaled; None where all had the network's.
    """

    format_name: ClassVar[str] = "sepnas.data"

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Fit | None = None
