"""onnxruntime: fuses operators, starts in half a second, needs no torch."""

from __future__ import annotations

from sepnas.deployment.engines.kind import EngineKind

ENGINE = EngineKind(
    name="onnxruntime",
    order=1,
    package="onnxruntime",
    extra="onnxruntime",
    runner="sepnas.runtime.engines.onnx_engine:OnnxEngine",
    open_graph="sepnas.deployment.onnx_session:open_onnx",
    suffix=".onnx",
    export="sepnas.deploy.onnx_graphs:onnx_file",
    with_sizes="sepnas.deploy.onnx_graphs:with_sizes",
    fuses=True,
)
