"""The registry of stems: each module of this package with a ``STEM`` defines one kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

import sepnas.separable.stems
from sepnas.registered import find_registered
from sepnas.separable.stems.stem import Stem

STEMS: Mapping[str, Stem] = find_registered(sepnas.separable.stems, "STEM")
"""All kinds by name, in their order."""
DEFAULT_STEM = "plain"
"""The stem of architecture files that name none."""

if TYPE_CHECKING:
    StemName: TypeAlias = str
else:
    _MEANINGS = "; ".join(f"{kind.name}: {kind.layers}" for kind in STEMS.values())
    StemName = Annotated[Literal[tuple(STEMS)], Field(description=f"The first layers. {_MEANINGS}.")]

StemStride = Annotated[int, Field(ge=1, le=max(stride for kind in STEMS.values() for stride in kind.strides))]
"""Pixels of the image for each output of the stem, along an axis."""


def with_stride(data: Any) -> Any:
    """The data of a network, with the default ``stem_stride`` of its ``stem`` if it names none."""
    if not isinstance(data, dict) or "stem" not in data or "stem_stride" in data:
        return data
    known = STEMS.get(str(data["stem"]))
    return data | {"stem_stride": known.strides[0]} if known else data
