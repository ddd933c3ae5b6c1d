"""What the modules keep for the next candidate, thrown away."""

from __future__ import annotations

from types import ModuleType

from sepnas.cost import routes, simulator, times
from sepnas.search import canonical
from sepnas.separable import layers, lower, patterns, space_network, space_points, transfers

MODULES: tuple[ModuleType, ...] = (
    patterns, space_network, space_points, layers, transfers, lower, routes, simulator, times, canonical,
)  # fmt: skip


def forget_all() -> None:
    """As in a process that has seen no candidate yet."""
    for module in MODULES:
        for found in vars(module).values():
            if hasattr(found, "cache_clear"):
                found.cache_clear()
