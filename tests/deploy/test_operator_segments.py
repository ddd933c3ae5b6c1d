"""Every registered operator runs on devices: exported for both engines, checked, exact for any number of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sepnas.deploy.segments import SegmentExporter, segment_weights
from sepnas.deployment.onnx_session import open_session, weight_name
from sepnas.nets.segment_graph import SegmentModule
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.runtime.engines.onnx_check import check_onnx_graph
from sepnas.runtime.engines.torch_archive import load_graph
from sepnas.runtime.engines.torch_shapes import GraphShapes
from tests.deploy.operator_cases import cases_of, segment_of

QUICK = ("attention", "cat", "conv_transpose")
"""Each export takes a second or two."""
SAMPLES = 3


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GRAPH_OPERATORS]
)
def test_an_operator_runs_in_both_engines(name: str, tmp_path: Path) -> None:
    """A segment of one operator gives three samples what each gives alone, in torch and in onnxruntime."""
    for case in cases_of(name):
        torch.manual_seed(0)
        segment, shapes = segment_of(name, case)
        stored = {weight.name: torch.rand(weight.region.dims) + 0.5 for weight in segment.weights}
        module = SegmentModule(segment, stored.__getitem__).eval()
        weights = list(segment_weights(module).values())
        files = SegmentExporter(("torch", "onnxruntime")).export(module, shapes, segment.outputs)
        inputs = [torch.randn(SAMPLES, *shape.dims) for shape in shapes.values()]
        with torch.no_grad():
            wanted = torch.cat([module(*[x[place : place + 1] for x in inputs]) for place in range(SAMPLES)])
        for found in (
            _by_torch(files["torch"], tmp_path, inputs, weights),
            _by_onnx(files["onnxruntime"], inputs, weights),
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _by_torch(data: bytes, folder: Path, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> np.ndarray:
    path = folder / "segment.pt2"
    path.write_bytes(data)
    graph = load_graph(path)
    GraphShapes(path, graph, weights, [(1, *x.shape[1:]) for x in inputs]).made()
    with torch.inference_mode():
        return graph(*inputs, *weights)[0].numpy()


def _by_onnx(data: bytes, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> np.ndarray:
    names = [f"x{place}" for place in range(len(inputs))]
    shapes = {name: (1, *x.shape[1:]) for name, x in zip(names, inputs, strict=True)}
    check_onnx_graph(data, shapes, {weight_name(place): tuple(each.shape) for place, each in enumerate(weights)})
    session = open_session(data, [each.numpy() for each in weights], threads=1)
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})[0]
