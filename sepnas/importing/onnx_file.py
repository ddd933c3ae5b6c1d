"""A network from an ``.onnx`` file: what it names is checked here, and a converter makes a module of it.

The file is checked first: a protobuf message of bounded size, whose weights lie in it or in files of its own folder.
The module is compared with the file itself as onnxruntime computes it, so a wrong conversion is found.
"""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork, Shape
from sepnas.importing.numbers_at_once import NumbersAtOnce
from sepnas.partition.trace.refusals import first_line
from sepnas.spec.document import few, short
from sepnas.spec.files import open_regular, read_regular, why
from sepnas.train.vision import import_torchvision

MAX_FILE_BYTES = (2 << 30) - 1
"""A protobuf message is not longer."""
MAX_WEIGHT_BYTES = 16 << 30
CONVERTER = "onnx2pytorch"
_FLOAT32 = 1
"""The type's number in ONNX."""
_OWN_DOMAINS = ("", "ai.onnx")
_ADVICE = "import the network from which it was exported instead (module:factory, timm:NAME, torchvision:NAME or .pt2)"


def from_onnx(path: Path) -> FoundNetwork:
    """The network in an ``.onnx`` file, for one sample.

    Raises :class:`ImportFailedError` for a damaged file, weights outside of its folder, operators of other domains, and
    operators that the converter does not know.
    """
    import_torchvision("ops")  # the converter's import of it would fail beside some builds of torch
    onnx, converter = _library("onnx", "onnx"), _library(CONVERTER, "onnx")
    model = _read(onnx, path)
    _take_weights_in(onnx, model, path)
    model = _plain(onnx, model, path)
    shapes = _input_shapes(model, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = NumbersAtOnce(converter.ConvertModel(model))
        except Exception as error:  # the converter raises whatever it likes
            raise ImportFailedError(f"{path}: {CONVERTER} cannot convert it: {first_line(error)}; {_ADVICE}") from error
    reference = _reference(model.SerializeToString(), path)
    return FoundNetwork(path.stem, str(path), module.eval(), shapes=shapes, reference=reference)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.partition(".")[0] != error.name:
            raise
        raise ImportFailedError(
            f"an .onnx file is read by {error.name}; get it with: pip install 'sepnas[{extra}]'"
        ) from None


def _read(onnx: Any, path: Path) -> Any:
    try:
        data = read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ImportFailedError(f"{path}: cannot be read: {why(error, path)}") from None
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has several implementations, with errors of their own
        raise ImportFailedError(f"{path}: no ONNX file, or a damaged one: {first_line(error)}") from None
    if not model.graph.node:
        raise ImportFailedError(f"{path}: no ONNX file, or one without operators")
    return model


def _take_weights_in(onnx: Any, model: Any, path: Path) -> None:
    """Read the weights that lie in other files of the same folder."""
    left = MAX_WEIGHT_BYTES
    for tensor in _tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        tensor.raw_data = _external_data(tensor, path, left)
        left -= len(tensor.raw_data)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _tensors_of(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and of the graphs within it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors_of(inner)


def _external_data(tensor: Any, path: Path, max_bytes: int) -> bytes:
    """A weight's bytes from a file in the folder of ``path``; raises :class:`ImportFailedError` for any other place."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    name = facts.get("location", "")
    folder = path.resolve().parent
    place = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or folder not in place.resolve().parents:
        raise ImportFailedError(
            f"{path}: the weight {short(tensor.name)} lies in {short(name)}; only files of the same folder are read"
        )
    try:
        offset, length = int(facts.get("offset") or 0), int(facts.get("length") or 0)
        with open_regular(place) as opened:
            length = length or os.fstat(opened.fileno()).st_size - offset
            if offset < 0 or not 0 < length <= max_bytes:
                raise ValueError(f"offset {offset}, length {length}")
            opened.seek(offset)
            data = opened.read(length)
    except (OSError, ValueError) as error:
        told = why(error, place) if isinstance(error, OSError) else str(error)
        raise ImportFailedError(
            f"{path}: the weight {short(tensor.name)} cannot be read from {place}: {told}"
        ) from None
    if len(data) != length:
        raise ImportFailedError(f"{path}: the weight {short(tensor.name)} is cut short in {place}")
    return data


def _plain(onnx: Any, model: Any, path: Path) -> Any:
    """The model for one sample: its functions inlined, its shapes known, and what depends on them alone computed."""
    strange = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node} - _known_operators(model))
    if strange:
        raise ImportFailedError(f"{path}: has operators that are not ONNX's own: {few(strange)}; {_ADVICE}")
    for each in _inputs(model):
        _set_batch(each, path)
    try:
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        return _library("onnxscript.optimizer", "onnx").optimize(model)
    except ImportFailedError:
        raise
    except Exception as error:  # both raise whatever they like
        raise ImportFailedError(f"{path}: a damaged ONNX file: {first_line(error)}") from error


def _set_batch(port: Any, path: Path) -> None:
    dims = port.type.tensor_type.shape.dim
    if not dims:
        raise ImportFailedError(f"{path}: input {short(port.name)} has no axis of samples; it must come first")
    if dims[0].dim_value > 1:
        raise ImportFailedError(
            f"{path}: input {short(port.name)} has a batch of {dims[0].dim_value}; export it for one sample, or with a "
            "dynamic batch"
        )
    dims[0].dim_value = 1


def _inputs(model: Any) -> list[Any]:
    """The inputs that are no weights: older files list both."""
    stored = {each.name for each in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in stored]


def _known_operators(model: Any) -> set[str]:
    own = {f"{function.domain}.{function.name}" for function in model.functions}
    return own | {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain in _OWN_DOMAINS}


def _input_shapes(model: Any, path: Path) -> tuple[Shape, ...]:
    """The shapes of the inputs without the batch; empty if one is not known, so that a person must say it."""
    found = []
    for each in _inputs(model):
        kind = each.type.tensor_type
        if kind.elem_type != _FLOAT32:
            raise ImportFailedError(f"{path}: input {short(each.name)} is no float32 tensor, which a plan's inputs are")
        found.append(tuple(dim.dim_value for dim in kind.shape.dim[1:]))
    return tuple(found) if all(math.prod(shape) for shape in found) else ()


def _reference(model: bytes, path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """The file as onnxruntime computes it."""
    runtime = _library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def computed(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(x) for x in session.run(None, given))

    return computed
