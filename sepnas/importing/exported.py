"""A program that ``torch.export.save`` wrote (``.pt2``), read without unpickling anything that the file brings along.

Torch's own reader unpickles sample inputs, and weights that say so. So the file is looked through first, and torch gets
an archive made anew from what was looked at: graph, labels, and weights that lie there as plain numbers.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork
from sepnas.partition.trace.refusals import first_line
from sepnas.runtime.engines.torch_archive import archive_of
from sepnas.runtime.engines.torch_check import MORE_VALUES, Allowed, checked_graph
from sepnas.spec.files import open_regular, why
from sepnas.spec.reading import parse_json

MAX_RECORD_BYTES = 8 << 30
MAX_GRAPH_BYTES = 256 << 20
_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_LABELS = (
    "archive_format", "archive_version", ".data/version", "byteorder", ".data/serialization_id", ".format_version"
)  # fmt: skip
_VALUES = re.compile(r"data/(weights|constants)/(weight|tensor)_\d{1,6}", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w{1,100}\.\w{1,100}|_operator\.getitem", re.ASCII)
_ALLOWED = Allowed(lambda name: _OPERATOR.fullmatch(name) is not None, MORE_VALUES)
_ADVICE = "save the program with torch 2.9 or later, or import the module itself (module:factory)"


def from_exported(path: Path) -> FoundNetwork:
    """The program of a ``.pt2`` file; :class:`ImportFailedError` if anything in it would have to be unpickled."""
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            records = _checked_records(archive, os.fstat(opened.fileno()).st_size)
    except FileNotFoundError:
        raise ImportFailedError(f"{path}: no such file") from None
    except OSError as error:
        raise ImportFailedError(f"{path}: cannot be read: {why(error, path)}") from None
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImportFailedError(f"{path}: refused: {error}") from None
    try:
        program = torch.export.load(io.BytesIO(archive_of(records)))
    except Exception as error:  # torch raises whatever it likes here
        raise ImportFailedError(f"{path}: torch cannot read this program: {first_line(error)}; {_ADVICE}") from error
    return FoundNetwork(path.stem, str(path), program=program)


def _checked_records(archive: zipfile.ZipFile, num_bytes: int) -> dict[str, bytes]:
    """The records that torch is given, of an archive of ``num_bytes``."""
    entries = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
    unknown = sorted(
        name for name in entries if name not in {_MODEL, _SAMPLES, *_CONFIGS, *_LABELS} and not _VALUES.fullmatch(name)
    )
    if unknown or len(entries) != len(archive.namelist()):
        raise ValueError(
            f"it holds '{(unknown or ['a record twice'])[0]}', which would have to be unpickled; {_ADVICE}"
        )
    if _MODEL not in entries:
        raise ValueError(f"it has no '{_MODEL}'; {_ADVICE}")
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > num_bytes:  # torch stores records as they are
        raise ValueError(f"its records have {unpacked:,} bytes, but it has {num_bytes:,}: they are compressed")
    records = {name: _read(archive, entry) for name, entry in entries.items() if name != _SAMPLES}
    for name in _CONFIGS:
        records[name] = json.dumps(_checked_config(name, records)).encode()
    model = parse_json(records[_MODEL])
    if isinstance(model, dict):
        model["guards_code"] = []  # code that torch would run; shapes are fixed here
    records[_MODEL] = json.dumps(checked_graph(model, _ALLOWED)).encode()
    return {**records, _SAMPLES: b""}


def _checked_config(name: str, records: dict[str, bytes]) -> Any:
    """The list of weights, all of which lie in the archive as numbers."""
    config = parse_json(records[name]) if name in records else {"config": {}}
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ValueError(f"'{name}' is no list of weights")
    folder = name.rpartition("/")[0]
    for weight, entry in entries.items():
        place = f"{folder}/{entry.get('path_name')}" if isinstance(entry, dict) else ""
        if not place or entry.get("use_pickle") is not False:
            raise ValueError(f"weight '{weight[:80]}' would have to be unpickled; {_ADVICE}")
        if place not in records or not _VALUES.fullmatch(place):
            raise ValueError(f"weight '{weight[:80]}' is not in the file")
    return {"config": entries}


def _read(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    limit = MAX_GRAPH_BYTES if record.filename.endswith(".json") else MAX_RECORD_BYTES
    if record.file_size > limit:
        raise ValueError(f"'{record.filename}' has {record.file_size:,} bytes; at most {limit:,} are read")
    return archive.read(record)
