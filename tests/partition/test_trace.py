"""Networks become graphs: each computes the same as its module, and what a graph cannot express is an error."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sepnas.errors import ImportFailedError, SpecError
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import partition
from sepnas.partition.trace.program import trace
from sepnas.plan.schedule import schedule
from sepnas.train.vision import import_timm, import_torchvision

NETWORKS = (
    ("torchvision:alexnet", (3, 64, 64)),
    ("torchvision:resnet18", (3, 32, 32)),
    ("torchvision:squeezenet1_1", (3, 64, 64)),
    ("torchvision:mobilenet_v2", (3, 32, 32)),
    ("torchvision:mobilenet_v3_small", (3, 32, 32)),
    ("torchvision:shufflenet_v2_x0_5", (3, 32, 32)),
    ("torchvision:r3d_18", (3, 4, 32, 32)),
    ("torchvision:lraspp_mobilenet_v3_large", (3, 32, 32)),
    ("timm:test_vit", (3, 160, 160)),
    ("timm:test_efficientnet", (3, 64, 64)),
    ("timm:test_convnext", (3, 64, 64)),
    ("timm:test_nfnet", (3, 64, 64)),
    ("timm:test_resnet", (3, 64, 64)),
)


def made(source: str) -> nn.Module:
    library, _, name = source.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        import_timm("models")
        module: nn.Module = importlib.import_module("timm").create_model(name)
        return module.eval()
    options = {"weights_backbone": None} if "raspp" in name else {}
    found: nn.Module = import_torchvision("models").get_model(name, weights=None, **options)
    return found.eval()


def traced(module: nn.Module, *dims: tuple[int, ...]) -> tuple[Graph, dict[str, Tensor], list[Tensor]]:
    torch.manual_seed(1)
    inputs = [torch.randn(1, *each) for each in dims]
    graph, weights = trace(module, inputs, name="network", source="test")
    return graph, weights, inputs


def _marked(source: str, dims: tuple[int, ...]) -> object:
    slow = source in ("torchvision:mobilenet_v2", "torchvision:lraspp_mobilenet_v3_large")
    return pytest.param(source, dims, id=source, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("source", "dims"), [_marked(*each) for each in NETWORKS])
def test_a_graph_computes_what_its_module_computes(source: str, dims: tuple[int, ...]) -> None:
    """Networks of torchvision and timm, through a document and back, agree to 1e-5, without an opaque operator."""
    module = made(source)
    graph, weights, [x] = traced(module, dims)
    assert graph.opaque_nodes == ()
    network = GraphNetwork(Graph.from_data(graph.to_data()), weights)
    with torch.inference_mode():
        wanted, found = module(x), network(x)
    if isinstance(wanted, dict):
        [wanted] = wanted.values()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


class Several(nn.Module):
    """Two inputs, named outputs, a split, a constant mask and an operator without a registered kind."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        left, right = self.drop(self.line(x)).chunk(2, dim=-1)
        mask = torch.arange(4).float() / 4
        return {"joined": left * mask + right.clone(), "best": torch.topk(left, 2).indices, "y": [y.relu_() + 1]}


def test_names_of_outputs_come_from_the_module() -> None:
    """Dictionaries and lists of outputs, splits, constants and opaque operators all arrive."""
    module = Several().eval()
    graph, weights, inputs = traced(module, (3, 6), (5,))
    assert graph.inputs == ("x", "y")
    assert [output.name for output in graph.outputs] == ["joined", "best", "y_0"]
    assert [node.operator for node in graph.opaque_nodes] == ["aten.topk.default"]
    assert not {"dropout", "clone", "arange"} & {node.operator for node in graph.nodes}
    assert [node.module for node in graph.nodes if node.operator == "linear"] == ["line"]
    with torch.inference_mode():
        found, wanted = GraphNetwork(graph, weights)(*inputs), module(*inputs)
    assert isinstance(found, dict)
    torch.testing.assert_close(found["joined"], wanted["joined"])
    assert torch.equal(found["best"], wanted["best"])
    torch.testing.assert_close(found["y_0"], wanted["y"][0])


class Extremes(nn.Module):
    """Largest and smallest values with places that nobody reads, and a tensor that is written into another one."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y.copy_(x * 2)
        y += x.max(1, keepdim=True).values
        return y - x.min(-1)[0].unsqueeze(-1)


def test_extremes_and_copies_are_known() -> None:
    """`max(dim)` without its places is a reduction, and a copy of the same size is the tensor itself."""
    module = Extremes().eval()
    graph, weights, [x] = traced(module, (4, 6))
    assert graph.opaque_nodes == ()
    assert [node.attributes for node in graph.nodes if node.operator == "amax"] == [{"dim": 1, "keepdim": True}]
    assert "amin" in {node.operator for node in graph.nodes}
    torch.testing.assert_close(GraphNetwork(graph, weights)(x), module(x), rtol=0, atol=0)


class Tables(nn.Module):
    """Places picked by known tables: an order, windows of two axes, negative places, and one table for two axes."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows, columns = torch.arange(3)[:, None] + 2 * torch.arange(2), torch.arange(2)[:, None] + torch.arange(5)
        return {
            "order": x[:, torch.tensor([2, 0, 3, 1])],
            "windows": x[:, :, rows[:, :, None, None], columns],
            "last": x[:, :, :, torch.tensor([[-1, -2], [0, 0]])],
            "diagonal": x[:, :, torch.arange(5), torch.arange(5)],
        }


def test_known_tables_are_slices() -> None:
    """Indexing by tables is slices that are joined, to the bit; a diagonal, whose places are bound, is not."""
    module = Tables().eval()
    graph, weights, [x] = traced(module, (4, 6, 7))
    assert [node.operator for node in graph.opaque_nodes] == ["aten.index.Tensor"]
    network, batch = PartitionedNetwork(graph, weights).eval(), torch.cat([x, 2 * x])
    wanted = module(batch)
    plan = partition(graph.model_copy(update={"outputs": graph.outputs[:3]}), "pipeline", [1])
    found = run_plan(schedule(plan), lookup_of(network), {graph.inputs[0]: batch})
    for name in found:
        assert torch.equal(found[name], wanted[name]), name
    alone = GraphNetwork(graph, weights)(x)
    assert isinstance(alone, dict)
    assert all(torch.equal(alone[name], each[:1]) for name, each in wanted.items())


class Places(nn.Module):
    """The places of largest values are read, and a copy is a conversion."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        largest, places = x.max(1)
        return {"largest": largest, "places": places, "whole": torch.empty_like(x, dtype=torch.int64).copy_(x)}


def test_places_and_conversions_stay_whole() -> None:
    """`max(dim)` with its places, and a copy to another type, are computed as they are."""
    module = Places().eval()
    graph, weights, [x] = traced(module, (4, 6))
    assert "aten.max.dim" in {node.operator for node in graph.opaque_nodes}
    found, wanted = GraphNetwork(graph, weights)(x), module(x)
    assert isinstance(found, dict)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_axes_have_names() -> None:
    """The features of a convolutional network are NCHW, and its logits are NC."""
    graph, _, _ = traced(made("torchvision:squeezenet1_1"), (3, 64, 64))
    assert graph.tensors[graph.outputs[0].tensor].axes == "NC"
    assert {graph.tensors[node.outputs[0]].axes for node in graph.nodes if node.operator == "conv"} == {"NCHW"}


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Selects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


class LeavesTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() + 1)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branches(), r"control flow.*line \d+ of .*test_trace.py, in forward"),
        (
            Selects(),
            r"test: .*shapes .* depend on values.*line \d+ of .*test_trace.py, in forward: `return x\[x > 0\]`\);",
        ),
        (Counts(), r"test: .*numbers out of a tensor.*line \d+ of .*: `return x \* x.sum\(\).item\(\)`\); compute"),
        (LeavesTorch(), r"test: .*numbers out of a tensor.*test_trace.py, in forward"),
        (Remembers(), "test: changes its own buffer 'count'"),
    ],
)
def test_what_a_graph_cannot_say_is_an_error(module: nn.Module, message: str) -> None:
    """Control flow that depends on values names its line; so do shapes, and modules that change themselves."""
    with pytest.raises(ImportFailedError, match=message):
        traced(module, (4,))


def test_a_failed_trace_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Torch prints the half of a graph that it has; the error says what is wrong, and stderr stays empty."""
    with pytest.raises(ImportFailedError):
        traced(Branches(), (4,))
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_network_are_refused() -> None:
    """A tensor that is missing, or has another shape, is named with the network."""
    graph, weights, _ = traced(nn.Sequential(nn.Linear(4, 2)), (4,))
    with pytest.raises(SpecError, match=r"tensor '0.weight' must be float32 \(2, 4\) for network 'network', got"):
        GraphNetwork(graph, {**weights, "0.weight": torch.zeros(3, 4)})
    with pytest.raises(SpecError, match=r"tensor '0.bias' of network 'network' is missing"):
        GraphNetwork(graph, {"0.weight": weights["0.weight"]})


@pytest.mark.parametrize(
    "operator", ["aten.from_file.default", "aten.add_.Tensor", "aten.abs.out", "aten.nothing.default"]
)
def test_operators_that_do_more_than_compute_are_not_run(operator: str) -> None:
    """A graph from elsewhere cannot have files read, or its inputs written to."""
    graph, weights, _ = traced(nn.ReLU(), (4,))
    node = graph.nodes[0].model_copy(update={"operator": operator})
    if "file" in operator:
        node = node.model_copy(update={"inputs": {}, "attributes": {"filename": "/etc/passwd", "size": 4}})
    with pytest.raises(SpecError, match=r"is no function of tensors|has no operator aten.nothing"):
        GraphNetwork(graph.model_copy(update={"nodes": (node,)}), weights)


def test_inputs_of_another_shape_are_refused() -> None:
    """A graph is for one shape, and any number of samples: the message names the input and both shapes."""
    graph, weights, _ = traced(nn.Bilinear(4, 3, 2), (4,), (3,))
    network = GraphNetwork(graph, weights)
    with pytest.raises(SpecError, match=r"input 'input1' must have shape \(2, 4\), got \(2, 5\)"):
        network(torch.zeros(2, 5), torch.zeros(2, 3))
    with pytest.raises(SpecError, match=r"input 'input2' must have shape \(2, 3\), got \(3, 3\)"):
        network(torch.zeros(2, 4), torch.zeros(3, 3))


def test_a_network_without_values_is_traced_too() -> None:
    """On torch's meta device a graph has shapes and MACs, and needs no memory."""
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()).eval()
    graph, _ = trace(module, [torch.zeros(1, 3, 512, 512, device="meta")], name="large", source="test")
    assert graph.macs == 27 * 64 * 510**2


class _MaskedSteps(nn.Module):
    """A mask that is written piece by piece, one piece empty, and a recurrent layer over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((5, 6))
        for part, value in ((slice(0, -5), 1.0), (slice(-5, -2), 2.0), (slice(-2, None), 3.0)):
            mask[part] = value
        found: Tensor = self.steps(x * mask)[0]
        return found


def test_masks_are_computed_in_advance_and_recurrent_layers_kept_whole() -> None:
    """A mask that depends on the shape of an input alone is a constant; a recurrent layer is one opaque operator."""
    module = _MaskedSteps().eval()
    graph, weights, inputs = traced(module, (5, 6))
    assert [node.operator for node in graph.nodes] == ["mul", "aten.lstm.input"]
    with torch.no_grad():
        found = GraphNetwork(graph, weights).eval()(*inputs)
        assert torch.allclose(found, module(*inputs), atol=1e-6)  # type: ignore[arg-type]


class Written(nn.Module):
    """Writes into a part of a tensor, to its end."""

    def forward(self, x: Tensor) -> Tensor:
        found = x * 1.0
        found[:, 1:] = found[:, 1:] + x[:, :1]
        return found


class Shifted(nn.Module):
    """Adds a number that no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.int64).bitwise_and(2**60).to(torch.float32)


def test_a_slice_to_the_end_is_written() -> None:
    """ATen's end of an axis, 2^63 - 1, is beyond the numbers of a graph, which then has an end as good."""
    graph, weights, [x] = traced(Written(), (4, 6))
    assert any("slice_scatter" in node.operator for node in graph.nodes)
    again = Graph.from_data(graph.to_data(), "again")
    assert torch.equal(GraphNetwork(again, weights).eval()(x), Written()(x))


def test_numbers_that_no_graph_can_hold_are_refused() -> None:
    """Whole numbers beyond 2^53 are named, not rounded."""
    with pytest.raises(ImportFailedError, match="argument 1152921504606846976, which a graph cannot hold"):
        traced(Shifted(), (4, 6))


class PrefixKept(nn.Module):
    """Joins a prefix of the tokens, here of none, to the others, as rotary embeddings do."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.prefix], 2 * x[:, self.prefix :]], dim=1) + 1


@pytest.mark.parametrize("prefix", [0, 2, 4])
def test_parts_without_values_are_left_out_of_a_joining(prefix: int) -> None:
    """A prefix of no tokens, or of all, joins as in the module."""
    graph, weights, [x] = traced(PrefixKept(prefix), (4, 6))
    assert torch.equal(GraphNetwork(graph, weights).eval()(x), PrefixKept(prefix)(x))


class Summed(nn.Module):
    """Adds the sum of no tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x[:, :0].sum()


def test_an_operator_on_nothing_is_computed_in_advance() -> None:
    """A tensor without values depends on no input, nor does what is made of it alone."""
    graph, weights, [x] = traced(Summed(), (4, 6))
    assert [node.operator for node in graph.nodes] == ["add"]
    assert torch.equal(GraphNetwork(graph, weights).eval()(x), x)
