"""The registry of backbones: each module of this package with a ``BACKBONE`` defines one family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

import sepnas.separable.backbones
from sepnas.registered import find_registered
from sepnas.separable.backbones.backbone import Backbone, BlockStages
from sepnas.separable.stems.registry import DEFAULT_STEM

BACKBONES: Mapping[str, Backbone] = find_registered(sepnas.separable.backbones, "BACKBONE")
"""All families by name, in their order."""
DEFAULT_BACKBONE = "resnext"
"""The family of files that name none: the paper's."""

if TYPE_CHECKING:
    BackboneName: TypeAlias = str
else:
    _MEANINGS = "; ".join(f"{kind.name}: depth {kind.depths}; {kind.numbers}" for kind in BACKBONES.values())
    BackboneName = Annotated[Literal[tuple(BACKBONES)], Field(description=f"The family. {_MEANINGS}.")]


@lru_cache(maxsize=1 << 10)
def stages_of(backbone: str, depth: int) -> BlockStages:
    """The stages of a network of a depth that its family has."""
    return BlockStages.of(BACKBONES[backbone].stages(depth))


def without_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """Data without the paper's ``backbone`` and the plain ``stem``: files older than the others stay unchanged."""
    for name, default in (("backbone", DEFAULT_BACKBONE), ("stem", DEFAULT_STEM)):
        if data.get(name) == default:
            del data[name]
    return data
