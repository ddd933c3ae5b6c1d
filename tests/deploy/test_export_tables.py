"""Tables of operators that torch would build for each graph: kept, not changed, and not needed."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from sepnas.deploy import export_tables
from sepnas.deploy.export_tables import kept_tables
from sepnas.deploy.onnx_graphs import onnx_graph


def _builds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tables that torch builds from now on. They are copies of one, because each takes half a second."""
    built, copied = list[Any](), export_tables._copy
    build = functools.cache(_registration.ONNXRegistry.__dict__["from_torchlib"].__func__)

    def counted(kind: Any, *args: Any, **options: Any) -> Any:
        built.append(copied(build(kind, *args, **options)))
        return built[-1]

    monkeypatch.setattr(_registration.ONNXRegistry, "from_torchlib", classmethod(counted))
    monkeypatch.setattr(export_tables, "_tables", {})
    return built


def _graph(layer: nn.Module) -> bytes:
    return onnx_graph(torch.export.export(layer.eval(), (torch.ones(1, 3, 8, 8),)), ("x",), ("y",))


def test_exports_share_a_table_that_none_of_them_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs take one table, are what torch makes of a table of its own, and leave torch as it was."""
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish())
    with monkeypatch.context() as patched:
        patched.setattr("sepnas.deploy.export_tables._replace", lambda *_: None)
        wanted = _graph(layer)
    built = _builds(monkeypatch)
    own = _registration.ONNXRegistry.__dict__["from_torchlib"]
    first = _graph(layer)
    [table] = built
    before = {target: [*each] for target, each in table.functions.items()}
    with kept_tables():
        copy = _registration.ONNXRegistry.from_torchlib(opset_version=table.opset_version)
        copy.register_op(torch.ops.aten.relu.default, torch.relu)
    assert len(copy.functions["aten::relu"]) == len(before["aten::relu"]) + 1
    assert (_graph(layer), first) == (wanted, wanted)
    assert len(built) == 1
    assert table.functions == before
    assert _registration.ONNXRegistry.__dict__["from_torchlib"] is own


def test_without_torch_s_private_places_a_graph_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another version of torch has its tables elsewhere, or of another kind, exports build their own."""
    layer = nn.ReLU()
    wanted = _graph(layer)
    built = _builds(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(export_tables, "_REGISTRY", "torch.onnx.elsewhere:Registry")
        patched.setattr(export_tables, "_ONCE", ("torch.export:no_such_function",))
        assert [_graph(layer), _graph(layer)] == [wanted, wanted]
    assert len(built) == 2
    monkeypatch.setattr(export_tables, "_copy", lambda _: None)
    assert _graph(layer) == wanted
