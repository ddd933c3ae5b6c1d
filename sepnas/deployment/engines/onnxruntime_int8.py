"""onnxruntime with convolutions, additions and activations in 8 bits; its graphs include their weights."""

from __future__ import annotations

from sepnas.deployment.engines.kind import EngineKind

ENGINE = EngineKind(
    name="onnxruntime-int8",
    order=10,
    package="onnxruntime",
    extra="onnxruntime",
    runner="sepnas.runtime.engines.onnx_engine:Int8OnnxEngine",
    open_graph="sepnas.deployment.onnx_session:open_onnx",
    suffix=".int8.onnx",
    export="sepnas.deploy.int8:int8_graph",
    quantised_from="onnxruntime",
    fuses=True,
)
