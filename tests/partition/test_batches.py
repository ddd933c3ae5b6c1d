"""Plans compute batches, whatever the network puts into the axis of samples, and wherever it moves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sepnas.errors import PlanError
from sepnas.nets.graph import GraphNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.plan.schedule import schedule
from tests.partition.test_trace import traced

WIDTH = 8


class Network(nn.Module):
    """Patches, a layer of a kind that samples and other things share an axis in, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 2, stride=2), nn.Linear(WIDTH, 5)

    def inner(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.head(self.inner(self.patches(image)).mean((2, 3)))
        return found


class ConvolvedWindows(Network):
    """Windows along the axis of samples, each convolved by itself, as in EfficientViT and MViT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), nn.BatchNorm2d(WIDTH)

    def inner(self, x: Tensor) -> Tensor:
        tiles = x.view(-1, WIDTH, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, WIDTH, 4, 4)
        tiles = self.norm(self.conv(tiles)).relu()
        return tiles.reshape(-1, 2, 2, WIDTH, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(-1, WIDTH, 8, 8)


class NormOfTokens(Network):
    """The tokens of all samples are the rows of a batch norm, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)

    def inner(self, x: Tensor) -> Tensor:
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.norm(tokens.flatten(0, 1)).reshape_as(tokens)
        return tokens.transpose(1, 2).reshape(-1, WIDTH, 8, 8)


class SamplesBehind(Network):
    """Samples as the last axis of all, behind channels: one product with a matrix for all of them, as in CSATv2."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def inner(self, x: Tensor) -> Tensor:
        means = (self.matrix @ x.mean((2, 3)).transpose(0, 1)).transpose(0, 1)
        return x * means[:, :, None, None].sigmoid()


class WrittenPlaces(Network):
    """Values added up at places of a tensor of zeros, an operator without a kind, as in VOLO."""

    def inner(self, x: Tensor) -> Tensor:
        places = torch.tensor([0, 2, 2, 5])
        return torch.zeros_like(x).index_add(2, places, x[:, :, :4]) + x


class RecurrentRows(Network):
    """A recurrent layer over each row, the rows of all samples in one axis, as in Sequencer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def inner(self, x: Tensor) -> Tensor:
        samples, _, height, width = x.shape
        found, _ = self.rows(x.permute(0, 2, 3, 1).reshape(-1, width, WIDTH))
        return x + found.reshape(samples, height, width, WIDTH).permute(0, 3, 1, 2)


KINDS = (ConvolvedWindows, NormOfTokens, SamplesBehind, WrittenPlaces, RecurrentRows)


@pytest.mark.parametrize("kind", KINDS)
def test_each_scheme_is_exact_for_a_batch_or_makes_no_plan(kind: type[Network]) -> None:
    """Three samples are computed as by the module itself, in plans and in one piece; all schemes but `groups` split."""
    torch.manual_seed(0)
    module = kind().eval()
    graph, weights, [x] = traced(module, (3, 16, 16))
    batch, network = torch.cat([x, x + 1, 2 * x]), PartitionedNetwork(graph, weights).eval()
    refused = []
    with torch.no_grad():
        wanted = module(batch)
        torch.testing.assert_close(GraphNetwork(graph, weights)(batch), wanted, rtol=1e-4, atol=1e-5)
        for scheme in SCHEMES:
            try:
                plan = schedule(partition(graph, scheme, [1, 1]))
            except PlanError as error:
                refused.append(f"{scheme}: {error}")
                continue
            [found] = run_plan(plan, lookup_of(network), {graph.inputs[0]: batch}).values()
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, msg=scheme)
    assert all(each.startswith("groups: ") for each in refused), refused
