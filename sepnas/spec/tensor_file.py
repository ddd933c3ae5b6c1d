"""Reads and writes tensors in ``.npy`` and ``.npz`` files: plain numbers, within bounds; nothing is unpickled.

The file is read here and not by :func:`numpy.load`, which allocates what a header announces.
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.errors import DataError
from sepnas.spec.document import short
from sepnas.spec.files import FileTooLargeError, read_regular, why
from sepnas.spec.writing import write_bytes

Tensor: TypeAlias = npt.NDArray[Any]
MAX_TENSOR_FILE_BYTES = 1 << 30
MAX_ARRAYS = 64
"""Maximum number of tensors in one ``.npz`` file."""
MAX_AXES = 16
MAX_HEADER_BYTES = 2048
"""A number in a header this long can still be printed: Python refuses to print integers of over 4300 digits."""
_NPY, _NPZ = b"\x93NUMPY", b"PK"
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
"""By version, the form of the header's length, which follows the magic string and the version."""
_TYPE = re.compile(r"[<>=|]?[fiu]\d{1,2}", re.ASCII)
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)
"""The exceptions that reading a damaged archive raises."""


def is_tensor_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says that it holds tensors."""
    return Path(path).suffix in (".npy", ".npz")


def read_tensor_file(
    path: str | os.PathLike[str], max_bytes: int = MAX_TENSOR_FILE_BYTES
) -> Tensor | dict[str, Tensor]:
    """The tensor of a ``.npy`` file, or those of a ``.npz`` file by name; the content decides which it is.

    Raises :class:`DataError` for a file that cannot be read, is larger than ``max_bytes``, or is neither.
    """
    try:
        return parse_tensors(read_regular(path, max_bytes), str(path), max_bytes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except FileTooLargeError:
        raise DataError(f"{path}: is larger than {max_bytes:,} bytes") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {why(error, path)}") from None


def parse_tensors(data: bytes, name: str, max_bytes: int = MAX_TENSOR_FILE_BYTES) -> Tensor | dict[str, Tensor]:
    """As :func:`read_tensor_file`, from the file's bytes; errors begin with ``name``."""
    if data.startswith(_NPZ):
        return _parse_npz(data, name, max_bytes)
    if data.startswith(_NPY):
        return _parse_npy(data, name)
    raise DataError(f"{name}: is neither a .npy nor a .npz file of numpy")


def write_tensor_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Path:
    """Write a ``.npz`` file; raises :class:`StorageError`."""
    return write_bytes(path, tensor_bytes(tensors))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a ``.npz`` file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(tensor), allow_pickle=False)
    return file.getvalue()


def _parse_npz(data: bytes, name: str, max_bytes: int) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, name, max_bytes)
            contents = {each.filename.removesuffix(".npy"): archive.read(each) for each in members}
    except _DAMAGED as error:
        raise DataError(f"{name}: is damaged, or no .npz file: {short(str(error))}") from None
    return {key: _parse_npy(content, f"{name}: '{key}'") for key, content in contents.items()}


def _check_members(members: list[zipfile.ZipInfo], name: str, max_bytes: int) -> None:
    if len(members) > MAX_ARRAYS:
        raise DataError(f"{name}: holds {len(members)} tensors; at most {MAX_ARRAYS} are read")
    if sum(each.file_size for each in members) > max_bytes:
        raise DataError(f"{name}: its tensors have more than {max_bytes:,} bytes")
    names = [each.filename for each in members]
    for each in names:
        if not each.endswith(".npy") or names.count(each) > 1:
            raise DataError(f"{name}: holds {short(each)}, but each entry must be a .npy file with a name of its own")


def _parse_npy(data: bytes, name: str) -> Tensor:
    header, start = _header(data, name)
    dtype, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
    if not isinstance(dtype, str) or "O" in dtype:
        raise DataError(f"{name}: holds Python objects or records, which are never read; save an array of numbers")
    kind = _type_of(dtype)
    if kind is None:
        raise DataError(f"{name}: has values of type {short(dtype)}; expected floats or integers")
    if not _is_shape(shape) or not isinstance(fortran, bool):
        raise DataError(
            f"{name}: its header says the shape {short(str(shape))}; expected up to {MAX_AXES} sizes, and at most "
            f"{MAX_TENSOR_FILE_BYTES:,} values"
        )
    count, rest = math.prod(shape), len(data) - start
    if count * kind.itemsize != rest:
        raise DataError(f"{name}: announces {kind} {shape}, {count * kind.itemsize:,} bytes, but {rest:,} follow")
    values = np.frombuffer(data, kind, count, start).reshape(shape, order="F" if fortran else "C")
    return np.array(values, kind.newbyteorder("="), order="C")


def _header(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    """The header of a ``.npy`` file, and where its values begin."""
    form = _LENGTHS.get(data[6]) if len(data) > 12 and data.startswith(_NPY) else None
    if form is None:
        raise DataError(f"{name}: is no .npy file of a version that is known")
    (length,) = struct.unpack_from(form, data, 8)
    start = 8 + struct.calcsize(form) + length
    if length > MAX_HEADER_BYTES or start > len(data):
        raise DataError(f"{name}: announces a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    try:
        found = ast.literal_eval(data[start - length : start].decode("utf-8"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != {"descr", "shape", "fortran_order"}:
        raise DataError(f"{name}: its header is not that of a .npy file")
    return found, start


def _type_of(text: str) -> np.dtype[Any] | None:
    """The type of number that a header names; None if it is no float or integer that numpy has."""
    try:
        return np.dtype(text) if _TYPE.fullmatch(text) else None
    except TypeError:
        return None


def _is_shape(shape: object) -> bool:
    """Whether a header's shape is one that numpy can have, even if it holds no values because a size is 0."""
    return (
        isinstance(shape, tuple)
        and len(shape) <= MAX_AXES
        and all(type(size) is int and size >= 0 for size in shape)
        and math.prod(size for size in shape if size) <= MAX_TENSOR_FILE_BYTES
    )
