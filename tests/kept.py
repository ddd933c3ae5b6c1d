"""What the modules keep for the next candidate, thrown away."""

from __future__ import annotations

from types import ModuleType

from sepnas.cost import routes, simulator, times
from sepnas.plan import lower, network, traffic
from sepnas.search import canonical
from sepnas.spec import patterns, space_network, space_points

MODULES: tuple[ModuleType, ...] = (
    patterns, space_network, space_points, network, traffic, lower, routes, simulator, times, canonical,
)  # fmt: skip


def forget_all() -> None:
    """As in a process that has seen no candidate yet."""
    for module in MODULES:
        for found in vars(module).values():
            if hasattr(found, "cache_clear"):
                found.cache_clear()
