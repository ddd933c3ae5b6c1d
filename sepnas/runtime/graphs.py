"""Reading a segment's graph (``.pt2``) without unpickling or evaluating anything that the file brings along.

``torch.export.load`` unpickles sample inputs and evaluates symbolic sizes. So the archive is looked through
first: only the records that `sepnas export` writes may be there, the ones that could hold pickles must be
empty, every operator must be a plain tensor operator, and sizes may hold nothing but arithmetic.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepnas.errors import DeploymentError

if TYPE_CHECKING:
    from torch.fx import GraphModule

_MAX_GRAPH_BYTES = 64 << 20
_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_LABELS = (
    "archive_format",
    "archive_version",
    ".data/version",
    "byteorder",
    ".data/serialization_id",
    ".format_version",
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|getitem)")
_SYMBOL = re.compile(r"Symbol\('[su]\d+', positive=True, integer=True\)|Symbol\('[su]\d+', integer=True\)")
_ARITHMETIC = re.compile(r"(Integer|Mul|Add|[su]?[0-9]|[-+/(), ]|\*(?!\*))*")
"""No powers: 9**9**9 would be computed. Each character fits one alternative only, so that matching is linear."""
_MAX_SIZE_CHARACTERS = 1000


def load_graph(path: Path) -> GraphModule:
    """The graph of a segment: call it with ``x`` and then the weights, in order; it gives a tuple of one tensor.

    Raises :class:`DeploymentError` when the file is anything but such a graph.
    """
    check_archive(path)
    import torch.export

    try:
        graph: GraphModule = torch.export.load(path).graph_module
        return graph
    except Exception as error:  # torch raises whatever it likes here
        raise DeploymentError(f"{path}: torch cannot read this segment: {type(error).__name__}: {error}") from error


def check_archive(path: Path) -> None:
    """Refuse an archive that is not just a graph; reads no pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
            unknown = sorted(set(records) - {_MODEL, _SAMPLES, *_CONFIGS, *_LABELS})
            if unknown or len(records) != len(archive.namelist()):
                raise _refused(path, f"holds '{(unknown or ['a record twice'])[0]}', which no segment has")
            if _SAMPLES in records and records[_SAMPLES].file_size:
                raise _refused(path, "holds sample inputs, which would have to be unpickled")
            for name in _CONFIGS:
                if name in records and json.loads(_read(archive, records[name], path)) != {"config": {}}:
                    raise _refused(path, f"'{name}' is not empty; weights belong into weights.safetensors")
            if _MODEL not in records:
                raise _refused(path, f"has no '{_MODEL}'")
            _check_graph(json.loads(_read(archive, records[_MODEL], path)), path)
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError, NotImplementedError) as error:
        raise DeploymentError(f"{path}: not a segment that `sepnas export` wrote: {error}") from error


def _read(archive: zipfile.ZipFile, record: zipfile.ZipInfo, path: Path) -> bytes:
    if record.file_size > _MAX_GRAPH_BYTES:
        raise _refused(path, f"'{record.filename}' has {record.file_size} bytes; at most {_MAX_GRAPH_BYTES} are read")
    return archive.read(record)


def _check_graph(node: Any, path: Path) -> None:
    """Walk the JSON: what will be looked up by name or evaluated must be harmless."""
    if isinstance(node, list):
        for item in node:
            _check_graph(item, path)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "target" and isinstance(value, str) and not _OPERATOR.fullmatch(value):
                raise _refused(path, f"uses operator '{value[:80]}'; only torch.ops.aten operators run on a device")
            if key == "expr_str" and not _is_arithmetic(str(value)):
                raise _refused(path, f"has a size that is no arithmetic: {str(value)[:80]!r}")
            if key in ("guards_code", "custom_obj_values") and value:
                raise _refused(path, f"holds '{key}', which no segment has")
            _check_graph(value, path)


def _is_arithmetic(text: str) -> bool:
    return len(text) <= _MAX_SIZE_CHARACTERS and _ARITHMETIC.fullmatch(_SYMBOL.sub("1", text)) is not None


def _refused(path: Path, why: str) -> DeploymentError:
    return DeploymentError(f"{path}: refused: it {why}")
