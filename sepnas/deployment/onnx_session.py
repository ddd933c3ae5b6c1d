"""Opens a segment's ONNX graph; needs onnxruntime but not torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sepnas.deployment.engines.graph import SegmentGraph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from sepnas.deployment.engines.graph import OpenGraph

_ERRORS_ONLY = 3


def weight_name(index: int) -> str:
    """The name of a graph's weight with this index; no input or output has such a name."""
    return f"w:{index}"


def open_onnx(graph: SegmentGraph, threads: int) -> OpenGraph:
    """Open a segment in onnxruntime."""
    session = open_session(graph.data, graph.weights, threads)
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def open_session(graph: bytes, weights: Sequence[npt.NDArray[Any]], threads: int) -> InferenceSession:
    """A session for a graph whose initializers are the ``weights``, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # without 8-bit dot products, x86 would add pairs of 8-bit products in 16 bits, which overflow
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    # waiting threads must leave the core to the threads that exchange messages
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values: list[Any] = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(each)) for each in weights]
    options.add_external_initializers([weight_name(index) for index in range(len(values))], values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
