"""Keeps the tables of operators that torch builds anew, in a second, for each graph that it exports as ONNX.

They are no public part of torch. In a version that has them elsewhere, an export only takes longer.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

_REGISTRY = "torch.onnx._internal.exporter._registration:ONNXRegistry"
_ONCE = (
    "torch._export.utils:_materialize_cpp_cia_ops",
    "torch.export.exported_program:_collect_all_valid_cia_ops",
    "torch.export.decomp_utils:_collect_all_valid_cia_ops",
)
"""Functions that look through all operators of torch, with the same result as long as none is registered."""
_LOCK = threading.RLock()
_tables: dict[object, Any] = {}
"""The tables of ONNX's operators, by the arguments that they were built for. Exports change only copies."""


@contextmanager
def kept_tables() -> Iterator[None]:
    """Within this, an export takes a copy of a table that is there, and looks for operators once."""
    with _LOCK, ExitStack() as stack:
        _replace(stack, f"{_REGISTRY}.from_torchlib", _kept)
        for each in _ONCE:
            _replace(stack, each, functools.cache)
        yield


def _replace(stack: ExitStack, place: str, changed: Callable[[Any], Any]) -> None:
    """Replace what has this name (``module:name``, ``module:class.name``) until the stack ends, if anything has it."""
    module, _, path = place.partition(":")
    *parts, name = path.split(".")
    try:
        owner = functools.reduce(getattr, parts, import_module(module))
        own = vars(owner)[name]
    except (ImportError, AttributeError, KeyError):
        return
    setattr(owner, name, changed(own))
    stack.callback(setattr, owner, name, own)


def _kept(own: Any) -> Any:
    """A class method that builds a table, and then gives copies of it."""
    if not isinstance(own, classmethod):
        return own

    def table(kind: Any, *args: Any, **options: Any) -> Any:
        key = kind, args, tuple(options.items())
        if key not in _tables:
            _tables[key] = own.__func__(kind, *args, **options)
        return _copy(_tables[key]) or own.__func__(kind, *args, **options)

    return classmethod(table)


def _copy(table: Any) -> Any:
    """A table with lists of its own; None if it does not consist of lists."""
    functions = getattr(table, "functions", None)
    if not isinstance(functions, dict) or not all(isinstance(each, list) for each in functions.values()):
        return None
    found = copy.copy(table)
    found.functions = {target: [*each] for target, each in functions.items()}
    return found
