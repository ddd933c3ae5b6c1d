"""Segments in onnxruntime: graphs without weights, which are put in before it optimises them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sepnas.deploy.onnx_session import open_session
from sepnas.errors import DeploymentError
from sepnas.runtime.codec import Array
from sepnas.runtime.denormals import flush_denormals
from sepnas.runtime.shard import Shard
from sepnas.spec.manifest import EngineName, SegmentData

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxEngine:
    """Segments in onnxruntime, on ``threads`` CPU threads."""

    _files: ClassVar[EngineName] = "onnxruntime"

    def __init__(self, shard: Shard, threads: int = 1) -> None:
        self._sessions: dict[str, tuple[InferenceSession, str]] = {}
        for name, segment in shard.manifest.segments.items():
            path = shard.folder / segment.files[self._files]
            weights = self._weights(shard, segment)
            try:
                session = open_session(path.read_bytes(), weights, threads)
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


class Int8OnnxEngine(OnnxEngine):
    """Segments in onnxruntime's int8; their graphs hold weights of their own, in 8 bits."""

    _files: ClassVar[EngineName] = "onnxruntime-int8"

    def _weights(self, shard: Shard, segment: SegmentData) -> list[Array]:
        return []
