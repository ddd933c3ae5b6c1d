"""Finds the values that the modules of a package register, so that an addition is one file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType
from typing import Any


def find_registered(package: ModuleType, attribute: str) -> Mapping[str, Any]:
    """The values that modules of ``package`` define as ``attribute``, by their ``name`` and sorted by ``order``."""
    modules = [import_module(f"{package.__name__}.{found.name}") for found in iter_modules(package.__path__)]
    values = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return MappingProxyType({value.name: value for value in sorted(values, key=lambda value: value.order)})
