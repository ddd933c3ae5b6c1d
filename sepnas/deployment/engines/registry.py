"""The engine registry: each module of this package with an ``ENGINE`` defines one engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sepnas.deployment.engines
from sepnas.deployment.engines.kind import EngineKind
from sepnas.registered import find_registered

AUTO = "auto"
"""Option of a worker instead of an engine's name: the fastest exact engine, found by measuring at start."""


@cache
def engines() -> Mapping[str, EngineKind]:
    """All engines by name, in their order."""
    return find_registered(sepnas.deployment.engines, "ENGINE")


def engine_names() -> tuple[str, ...]:
    return tuple(engines())


def exact_engines() -> tuple[str, ...]:
    """Engines that compute in fp32 with the weights of ``weights.safetensors``; all give the same answers."""
    return tuple(kind.name for kind in engines().values() if kind.exact)


def quantised_engines() -> tuple[str, ...]:
    """Engines that compute with fewer bits; their graphs include quantised weights and scales."""
    return tuple(kind.name for kind in engines().values() if not kind.exact)


def graph_engines() -> tuple[str, ...]:
    """Engines that have graph files of their own in a deployment."""
    return tuple(kind.name for kind in engines().values() if not kind.reads)
