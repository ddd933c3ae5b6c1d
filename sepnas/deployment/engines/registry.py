"""The engine registry: each module of this package with an ``ENGINE`` defines one engine."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import sepnas.deployment.engines
from sepnas.deployment.engines.kind import EngineKind

AUTO = "auto"
"""Option of a worker instead of an engine's name: the fastest exact engine, found by measuring at start."""


@cache
def engines() -> dict[str, EngineKind]:
    """All engines by name, in their order."""
    package = sepnas.deployment.engines
    modules = [import_module(f"{package.__name__}.{found.name}") for found in iter_modules(package.__path__)]
    kinds: list[EngineKind] = [module.ENGINE for module in modules if hasattr(module, "ENGINE")]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.order)}


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
