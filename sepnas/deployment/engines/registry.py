"""The engines: each module of this package that has an ``ENGINE`` is one."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import sepnas.deployment.engines
from sepnas.deployment.engines.kind import EngineKind

AUTO = "auto"
"""What a worker may be told instead of a name: the fastest exact engine, which it measures first."""


@cache
def engines() -> dict[str, EngineKind]:
    """All of them by name, in their order."""
    package = sepnas.deployment.engines
    modules = [import_module(f"{package.__name__}.{found.name}") for found in iter_modules(package.__path__)]
    kinds: list[EngineKind] = [module.ENGINE for module in modules if hasattr(module, "ENGINE")]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.order)}


def engine_names() -> tuple[str, ...]:
    return tuple(engines())


def exact_engines() -> tuple[str, ...]:
    """Those that compute in fp32 with the weights of ``weights.safetensors``: they give the same answers."""
    return tuple(kind.name for kind in engines().values() if kind.exact)


def quantised_engines() -> tuple[str, ...]:
    """Those that compute with fewer bits: their graphs hold weights and scales of their own."""
    return tuple(kind.name for kind in engines().values() if not kind.exact)


def graph_engines() -> tuple[str, ...]:
    """Those that have files of their own in a deployment."""
    return tuple(kind.name for kind in engines().values() if not kind.reads)
