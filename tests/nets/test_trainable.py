"""A graph that is trained computes and learns as the module that it was imported from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import SpecError
from sepnas.nets.crossings import Rounding
from sepnas.nets.exchange import through_wire
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.trainable import TrainableGraph, trained_weights
from sepnas.partition.graph import Graph
from tests.partition.test_batches import ConvolvedWindows, NormOfTokens, SamplesBehind
from tests.partition.test_samples import Windows
from tests.partition.test_trace import traced

BATCH = 6


class Small(nn.Module):
    """Convolutions with batch norms, a table that is no parameter, a class token and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.second = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.BatchNorm2d(8)
        self.register_buffer("table", torch.rand(8, 1, 1))
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(image)))
        x = functional.relu6(self.second(self.depthwise(x))) * self.table
        tokens = torch.cat((self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1)
        found: Tensor = self.head(tokens.mean(1))
        return found


@pytest.fixture
def small() -> tuple[Small, Graph, dict[str, Tensor], Tensor]:
    """A module with statistics of its own, its graph and weights, and a batch of images."""
    torch.manual_seed(0)
    module = Small().train()
    images = torch.randn(BATCH, 3, 10, 10)
    module(2 * images)
    graph, weights, _ = traced(module.eval(), (3, 10, 10))
    return module, graph, weights, images


def test_evaluation_is_that_of_the_graph_for_any_number_of_samples(small: tuple) -> None:
    """In evaluation a batch gives what the graph gives for each sample, and what the module gives."""
    module, graph, weights, images = small
    network, single = TrainableGraph(graph, weights).eval(), GraphNetwork(graph, weights).eval()
    with torch.no_grad():
        found = network(images)
        one_by_one = torch.cat([single(image[None]) for image in images])
    torch.testing.assert_close(found, one_by_one, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, module(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Windows, ConvolvedWindows, NormOfTokens, SamplesBehind])
@pytest.mark.parametrize("training", [False, True])
def test_what_shares_the_axis_of_samples_is_computed_for_any_batch(kind: type[nn.Module], training: bool) -> None:
    """Windows, tokens and channels beside samples: batches are computed as by the module, in training too."""
    torch.manual_seed(0)
    module = kind().eval()
    graph, weights, _ = traced(module, (3, 16, 16))
    network = TrainableGraph(graph, weights).train(training)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(network(images), module.train(training)(images), rtol=1e-4, atol=1e-5)


def test_training_is_that_of_the_module(small: tuple) -> None:
    """Steps of gradient descent change weights and running statistics as they change the module's."""
    module, graph, weights, images = small
    network = TrainableGraph(graph, weights).train()
    module.train()
    for each in (network, module):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(each(images), torch.arange(BATCH) % 5).backward()
            optimizer.step()
    wanted = {("expand" if name == "token" else name): value for name, value in module.state_dict().items()}
    assert {name for name in wanted if not name.endswith("num_batches_tracked")} == set(network.state_dict())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(network.eval()(images), module.eval()(images), rtol=1e-4, atol=1e-5)


def test_buffers_and_statistics_are_no_parameters(small: tuple) -> None:
    """What the module learns is learned, and what is made of it in advance; nothing else, also in older files."""
    module, graph, weights, _ = small
    assert trained_weights(graph) == {name for name, _ in module.named_parameters()} - {"token"} | {"expand"}
    older = graph.model_copy(update={"buffers": None})
    assert trained_weights(older) == trained_weights(graph) - {"expand"} | {"table"}
    assert {name for name, _ in TrainableGraph(graph, weights).named_parameters()} == trained_weights(graph)


def test_what_another_device_sends_is_rounded(small: tuple) -> None:
    """One operand as its format rounds it, each sample by itself; the tensor is not rounded where it does not cross."""
    module, graph, weights, images = small
    [head] = [node for node in graph.nodes if node.operator == "linear"]
    rounded = TrainableGraph(graph, weights, {(head.name, "input"): Rounding("int8")}).eval()
    name = head.inputs["input"]
    with torch.no_grad():
        images[1] *= 100
        found = rounded.tensors((images,), [name, head.outputs[0]])
        wanted = torch.cat([module.head(through_wire(each[None], "int8")) for each in found[name]])
    torch.testing.assert_close(found[head.outputs[0]], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[name], TrainableGraph(graph, weights).eval().tensors((images,), [name])[name])
    assert rounded.state_dict().keys() == weights.keys()
    rounded(images).sum().backward()
    assert all(x.grad is not None and bool(x.grad.any()) for x in rounded.parameters())


def test_the_state_holds_the_weights_of_the_graph_exactly(small: tuple) -> None:
    """What is written back is what came in, bit for bit, and a copy is a network of its own."""
    _, graph, weights, images = small
    network = TrainableGraph(graph, weights)
    assert network.state_dict().keys() == weights.keys() == network.weights_by_name.keys()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.weight("head.bias").add_(1.0)
    torch.testing.assert_close(other.eval()(images), network.eval()(images) + 1, rtol=1e-5, atol=1e-5)


def test_names_of_weights_may_be_any(small: tuple) -> None:
    """A weight may be called like a method of a module, or like the folder of other weights."""
    _, graph, weights, images = small
    names = {
        "conv.weight": "forward",
        "norm.weight": "forward.weight",
        "head.weight": "/a..b/type",
        "head.bias": "norm",
    }
    data = graph.to_data()
    for key in ("weights", "buffers"):
        data[key] = [names.get(name, name) for name in data[key]]
    data["tensors"] = {names.get(name, name): value for name, value in data["tensors"].items()}
    for node in data["nodes"]:
        node["inputs"] = {role: names.get(name, name) for role, name in node["inputs"].items()}
    renamed = Graph.from_data(data, "renamed")
    network = TrainableGraph(renamed, {names.get(name, name): x for name, x in weights.items()}).eval()
    assert set(network.state_dict()) == set(renamed.weights)
    torch.testing.assert_close(network(images), TrainableGraph(graph, weights).eval()(images))


def test_channels_last_and_bf16_give_the_same_up_to_rounding(small: tuple) -> None:
    """The layout and the precision that training uses change nothing but rounding."""
    _, graph, weights, images = small
    plain = TrainableGraph(graph, weights).eval()(images)
    network = TrainableGraph(graph, weights).to(memory_format=torch.channels_last).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found.float(), plain, rtol=0.05, atol=0.05)


def test_intermediate_tensors_are_given_by_name(small: tuple) -> None:
    """A tensor within the graph is the one that its node makes; nothing after it is computed."""
    module, graph, weights, images = small
    name = next(node.outputs[0] for node in graph.nodes if node.operator == "batch_norm")
    found = TrainableGraph(graph, weights).eval().tensors((images,), [name])
    torch.testing.assert_close(found[name], module.norm(module.conv(images)), rtol=1e-5, atol=1e-5)


def test_inputs_that_do_not_fit_are_refused(small: tuple) -> None:
    """Images of another size, and another number of inputs."""
    _, graph, weights, images = small
    network = TrainableGraph(graph, weights)
    with pytest.raises(SpecError, match=r"must have shape \(B, 3, 10, 10\), got \(6, 3, 8, 8\)"):
        network(images[..., :8, :8])
    with pytest.raises(SpecError, match="1 inputs, got 2"):
        network(images, images)


def test_gradients_in_bf16_are_those_of_the_module(small: tuple) -> None:
    """Depthwise convolutions, whose gradients are computed in fp32 on a CPU, have the module's gradients."""
    module, graph, weights, images = small
    network = TrainableGraph(graph, weights).train()
    module.train()
    found = []
    for each in (network, module):
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(each(images), torch.arange(BATCH) % 5)
        loss.backward()
        found.append({name: x.grad for name, x in each.named_parameters() if name != "token"})
    assert network._slow == {3: ([2, 2], [0, 0], [1, 1], 8)}
    for name, wanted in found[1].items():
        assert wanted is not None
        torch.testing.assert_close(found[0][name], wanted, rtol=0.05, atol=0.03 * float(wanted.abs().max()), msg=name)
