"""Segments whose graphs are ONNX files: in onnxruntime, and in engines that open what was looked through here.

Graphs have no weights; these are put in before an engine optimises them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sepnas.deployment.engines.graph import CheckedGraph, SegmentGraph, ShapeOf
from sepnas.deployment.engines.kind import EngineKind, late
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.onnx_session import weight_name
from sepnas.errors import DeploymentError, SepnasError
from sepnas.runtime.engines.batches import CheckedBatches
from sepnas.runtime.engines.denormals import flush_denormals
from sepnas.runtime.engines.onnx_check import check_onnx_batch, check_onnx_graph, depends_on_sizes, read_onnx_graph
from sepnas.runtime.engines.protobuf import NoMessageError
from sepnas.runtime.engines.shard import LoadedSegment, Shard
from sepnas.runtime.engines.torch_engine import check_outputs
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.files import read_regular, why

if TYPE_CHECKING:
    from sepnas.deployment.engines.graph import OpenGraph

MAX_ONNX_BYTES = 1 << 30
"""An int8 graph holds its weights."""


class OnnxEngine:
    """Segments of ONNX graphs on ``threads`` CPU threads, opened as an engine ``kind`` opens them."""

    _name: ClassVar[str] = "onnxruntime"

    def __init__(self, shard: Shard, threads: int = 1, kind: EngineKind | None = None) -> None:
        kind = kind or engines()[self._name]
        open_graph: Callable[[SegmentGraph, int], OpenGraph] = late(kind.open_graph)
        self._kind, self._paths = kind, dict[str, Path]()
        self._opened: dict[str, OpenGraph] = {}
        self._batches: dict[str, CheckedBatches] = {}
        for key, segment in shard.segments.items():
            path = self._paths[key] = shard.folder / segment.files.files[kind.graphs]
            weights = self._weights(segment)
            graph = _read(path)
            self._batches[key] = _check(path, graph, weights, segment)
            try:
                self._opened[key] = open_graph(_segment_graph(path, graph, weights, segment.files.inputs), threads)
            except (SepnasError, ImportError):
                raise
            except Exception as error:  # onnxruntime's errors have no class of their own
                raise DeploymentError(
                    f"{path}: {kind.name} cannot read this segment: {type(error).__name__}: {error}"
                ) from error

    def _weights(self, segment: LoadedSegment) -> Sequence[Array]:
        return segment.weights

    def prepare_thread(self) -> None:
        flush_denormals()  # the sessions' own option is for their threads, not for the one that calls them

    def run(self, segment: str, inputs: Sequence[Array]) -> Sequence[Array]:
        self._batches[segment].check(inputs)
        try:
            return self._opened[segment]([np.ascontiguousarray(array) for array in inputs])
        except (SepnasError, ImportError):
            raise
        except Exception as error:  # as above
            raise DeploymentError(
                f"{self._paths[segment]}: {self._kind.name} cannot run this segment: {type(error).__name__}: {error}"
            ) from error


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_ONNX_BYTES)
    except OSError as error:
        raise DeploymentError(f"{path}: cannot be read: {why(error, path)}") from error


def _check(path: Path, graph: bytes, weights: Sequence[Array], segment: LoadedSegment) -> CheckedBatches:
    files, sizes = segment.files, _sizes(weights)
    taken = dict(zip(files.inputs, segment.taken, strict=True))
    try:
        found = check_onnx_graph(graph, taken, sizes)
        one = read_onnx_graph(graph, taken, sizes)
    except NoMessageError as error:
        raise DeploymentError(f"{path}: onnxruntime cannot read this segment: it holds {error}") from None
    except ValueError as error:
        raise DeploymentError(f"{path}: refused: it {error}") from None
    if (*found,) != files.outputs:
        raise DeploymentError(
            f"{path}: refused: it makes {', '.join(found)[:200]}; the manifest says {', '.join(files.outputs)}"
        )
    check_outputs(path, [found[name] for name in files.outputs], segment.made)

    def check(samples: int) -> None:
        try:
            check_onnx_batch(graph, taken, sizes, samples, one)
        except ValueError as error:
            raise DeploymentError(f"{path}: refused for {samples} samples: it {error}") from None

    return CheckedBatches(segment.taken, check if depends_on_sizes(one) else None)


def _sizes(weights: Sequence[Array]) -> dict[str, ShapeOf]:
    return {weight_name(index): weight.shape for index, weight in enumerate(weights)}


def _segment_graph(path: Path, graph: bytes, weights: Sequence[Array], inputs: tuple[str, ...]) -> SegmentGraph:
    return SegmentGraph(path, graph, weights, partial(_checked, graph, _sizes(weights), inputs))


def _checked(
    graph: bytes, sizes: dict[str, ShapeOf], inputs: tuple[str, ...], shapes: Sequence[ShapeOf]
) -> CheckedGraph:
    return read_onnx_graph(graph, dict(zip(inputs, shapes, strict=True)), sizes)


class Int8OnnxEngine(OnnxEngine):
    """Segments in onnxruntime's int8; their graphs hold weights of their own, in 8 bits."""

    _name: ClassVar[str] = "onnxruntime-int8"

    def _weights(self, segment: LoadedSegment) -> Sequence[Array]:
        return ()
