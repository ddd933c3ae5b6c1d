"""Reads the benchmark's pickled table without running anything that the file names.

A pickle may call whatever it can import. Here every name in it stands for an inert class of this module, so that the
file can only fill plain lists, numbers and texts; any other name is refused. Neither pandas nor its version matters.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sepnas.errors import SpecError

DTYPES = ("f8", "i8", "O8")
DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


class Kept:
    """Stands for any class or function of the file: remembers what it was called with and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class DataFrame(Kept):
    pass


class BlockManager(Kept):
    pass


class Index(Kept):
    pass


class Array(Kept):
    """An array of Python objects: its state ends with the list of them."""


class Numbers(Kept):
    """An array of numbers: bytes, type, shape, order."""


class Slice(Kept):
    """The columns of a block."""


NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("pandas.core.frame", "DataFrame"): DataFrame,
    ("pandas.core.internals.managers", "BlockManager"): BlockManager,
    ("pandas.core.indexes.base", "_new_Index"): Kept,
    ("pandas.core.indexes.base", "Index"): Index,
    ("pandas.core.indexes.range", "RangeIndex"): Index,
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy.core.numeric", "_frombuffer"): Numbers,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kept,
    ("builtins", "slice"): Slice,
}
"""Every name that the file may use, and what stands for it."""


class TableUnpickler(pickle.Unpickler):
    """An unpickler that knows ``NAMES`` only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise SpecError(f"the pickle names {module}.{name}, which a table does not need; nothing was run")
        return NAMES[module, name]


def read_pickled(path: Path) -> dict[str, list[Any]]:
    """The columns of a pickled table by name; :class:`SpecError` if it is none, or names what a table does not need."""
    try:
        frame = TableUnpickler(BytesIO(path.read_bytes())).load()
        (labels, _), blocks = _axes_and_blocks(frame)
        columns = {}
        for block in blocks:
            start, stop, step = block["mgr_locs"].arguments
            for label, values in zip(labels[start:stop:step], _rows(block["values"]), strict=True):
                columns[label] = values
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except DAMAGED as error:
        raise SpecError(f"{path}: not a table as pandas 1 pickles it ({type(error).__name__}: {error})") from None
    return {label: columns[label] for label in labels}


def _axes_and_blocks(frame: Any) -> tuple[tuple[list[str], Any], list[dict[str, Any]]]:
    if not isinstance(frame, DataFrame):
        raise SpecError(f"expected a pandas table, got {type(frame).__name__}")
    content = frame.state["_data"].state[3]["0.14.1"]
    columns, rows = content["axes"]
    return (_objects(columns.arguments[1]["data"]), rows), content["blocks"]


def _objects(array: Array) -> list[Any]:
    return array.state[4]


def _rows(values: Any) -> list[list[Any]]:
    """The block's rows: one for each column of the table."""
    if isinstance(values, Numbers):
        data, kind, shape, _ = values.arguments
        if kind.arguments[0] not in DTYPES:
            raise SpecError(f"numbers of type {kind.arguments[0]!r}; allowed: {', '.join(DTYPES)}")
        return np.frombuffer(data, dtype=kind.arguments[0]).reshape(shape).tolist()
    shape, found = values.state[1], values.state[4]
    return [found[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]
