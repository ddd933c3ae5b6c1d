"""Reading a segment's graph (``.pt2``) without unpickling or evaluating anything that the file brings along.

``torch.export.load`` unpickles sample inputs and evaluates symbolic sizes, and reads archives in its own way. So the
file is looked through first (``graph_check.py``): only the records that `sepnas export` writes may be there, and those
that could hold pickles must be empty. Torch gets an archive that is made anew from what was looked at.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepnas.errors import DeploymentError
from sepnas.runtime.engines.torch_check import checked_graph
from sepnas.spec.files import read_regular, why
from sepnas.spec.reading import parse_json

if TYPE_CHECKING:
    from torch.fx import GraphModule

MAX_GRAPH_BYTES = 16 << 20
_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_NO_WEIGHTS: dict[str, Any] = {"config": {}}
_LABELS = (
    "archive_format",
    "archive_version",
    ".data/version",
    "byteorder",
    ".data/serialization_id",
    ".format_version",
)
_LABEL = re.compile(rb"[\w.]{0,64}\s?")


def load_graph(path: Path) -> GraphModule:
    """The graph of a segment: call it with the inputs and then the weights, in order; it gives a tuple of its outputs.

    Raises :class:`DeploymentError` when the file is anything but such a graph.
    """
    archive = checked_archive(path)
    import torch.export

    try:
        graph: GraphModule = torch.export.load(io.BytesIO(archive)).graph_module
        return graph
    except Exception as error:  # torch raises whatever it likes here
        raise DeploymentError(f"{path}: torch cannot read this segment: {type(error).__name__}: {error}") from error


def checked_archive(path: Path) -> bytes:
    """An archive of what is a graph in this one; refuses what holds anything else, and reads no pickle.

    Two readers may find different records in one file (two directories, two of a name): so no other reader gets it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(path, MAX_GRAPH_BYTES))) as archive:
            return archive_of(_checked_records(archive))
    except _RefusedError as error:
        raise DeploymentError(f"{path}: refused: it {error}") from None
    except OSError as error:
        raise DeploymentError(f"{path}: not a segment that `sepnas export` wrote: {why(error, path)}") from error
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DeploymentError(f"{path}: not a segment that `sepnas export` wrote: {error}") from error


class _RefusedError(ValueError):
    """A segment that can be read, and holds what none should."""


def _checked_records(archive: zipfile.ZipFile) -> dict[str, bytes]:
    entries = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
    unknown = sorted(set(entries) - {_MODEL, _SAMPLES, *_CONFIGS, *_LABELS})
    if unknown or len(entries) != len(archive.namelist()):
        raise _RefusedError(f"holds '{(unknown or ['a record twice'])[0]}', which no segment has")
    if _SAMPLES in entries and entries[_SAMPLES].file_size:
        raise _RefusedError("holds sample inputs, which would have to be unpickled")
    records = {name: _read(archive, entry) for name, entry in entries.items() if name != _SAMPLES}
    for name in _CONFIGS:
        if name in records and parse_json(records[name]) != _NO_WEIGHTS:
            raise _RefusedError(f"'{name}' is not empty; weights belong into weights.safetensors")
        records[name] = json.dumps(_NO_WEIGHTS).encode()
    for name in _LABELS:
        if not _LABEL.fullmatch(records.get(name, b"")):
            raise _RefusedError(f"'{name}' is no label: {records[name][:80]!r}")
    if _MODEL not in records:
        raise _RefusedError(f"has no '{_MODEL}'")
    model = parse_json(records[_MODEL])
    try:
        records[_MODEL] = json.dumps(checked_graph(model)).encode()
    except ValueError as error:
        raise _RefusedError(str(error)) from None
    return {**records, _SAMPLES: b""}


def _read(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    if record.file_size > MAX_GRAPH_BYTES:
        raise _RefusedError(f"'{record.filename}' has {record.file_size} bytes; at most {MAX_GRAPH_BYTES} are read")
    return archive.read(record)


def archive_of(records: dict[str, bytes]) -> bytes:
    """An archive of torch with these records, made anew."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()
