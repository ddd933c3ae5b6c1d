"""Segments in onnxruntime: graphs without weights, which are put in before it optimises them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sepnas.deployment.manifest import EngineName, SegmentData
from sepnas.deployment.onnx_session import open_session, weight_name
from sepnas.errors import DeploymentError
from sepnas.runtime.engines.denormals import flush_denormals
from sepnas.runtime.engines.onnx_check import check_onnx_graph
from sepnas.runtime.engines.protobuf import NoMessageError
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import check_output, shapes_of
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.files import read_regular, why

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


MAX_ONNX_BYTES = 1 << 30
"""An int8 graph holds its weights."""


class OnnxEngine:
    """Segments in onnxruntime, on ``threads`` CPU threads."""

    _files: ClassVar[EngineName] = "onnxruntime"

    def __init__(self, shard: Shard, threads: int = 1) -> None:
        self._sessions: dict[str, tuple[InferenceSession, str]] = {}
        shapes = shapes_of(shard)
        for name, segment in shard.manifest.segments.items():
            path = shard.folder / segment.files[self._files]
            weights = self._weights(shard, segment)
            graph = _read(path)
            if name in shapes:
                _check(path, graph, weights, *shapes[name])
            try:
                session = open_session(graph, weights, threads)
            except ImportError:
                raise
            except Exception as error:  # onnxruntime's errors have no class of their own
                raise DeploymentError(
                    f"{path}: onnxruntime cannot read this segment: {type(error).__name__}: {error}"
                ) from error
            self._sessions[name] = session, session.get_inputs()[0].name

    def _weights(self, shard: Shard, segment: SegmentData) -> list[Array]:
        return [shard.weights[weight] for weight in segment.weights]

    def prepare_thread(self) -> None:
        flush_denormals()  # the sessions' own option is for their threads, not for the one that calls them

    def run(self, segment: str, inputs: Sequence[Array]) -> Array:
        session, name = self._sessions[segment]
        output: Array = session.run(None, {name: np.ascontiguousarray(inputs[0])})[0]
        return output


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_ONNX_BYTES)
    except OSError as error:
        raise DeploymentError(f"{path}: cannot be read: {why(error, path)}") from error


def _check(path: Path, graph: bytes, weights: Sequence[Array], taken: tuple[int, ...], made: tuple[int, ...]) -> None:
    sizes = {weight_name(index): weight.shape for index, weight in enumerate(weights)}
    try:
        found = check_onnx_graph(graph, taken, sizes)
    except NoMessageError as error:
        raise DeploymentError(f"{path}: onnxruntime cannot read this segment: it holds {error}") from None
    except ValueError as error:
        raise DeploymentError(f"{path}: refused: it {error}") from None
    check_output(path, found, made)


class Int8OnnxEngine(OnnxEngine):
    """Segments in onnxruntime's int8; their graphs hold weights of their own, in 8 bits."""

    _files: ClassVar[EngineName] = "onnxruntime-int8"

    def _weights(self, shard: Shard, segment: SegmentData) -> list[Array]:
        return []
