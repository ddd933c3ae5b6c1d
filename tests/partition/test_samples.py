"""Axes of samples: networks that put samples and windows into one axis are split, and computed for any batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import partition
from sepnas.plan.schedule import schedule
from tests.partition.test_trace import traced

HEADS, WIDTH, WINDOW = 4, 12, 4


class Windows(nn.Module):
    """Attention within windows of 4x4, as in Swin: ``(samples x windows, tokens, channels)``, and shifted windows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(1, HEADS, WINDOW**2, WINDOW**2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).permute(0, 2, 3, 1)
        for shift in (0, 2):
            x = x + self._attention(torch.roll(self.norm(x), (-shift, -shift), (1, 2)))
        found: Tensor = self.head(x.mean((1, 2)))
        return found

    def _attention(self, x: Tensor) -> Tensor:
        samples, height, width, channels = x.shape
        tiles = x.view(samples, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
        tokens = tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, channels)
        query, key, value = self.qkv(tokens).reshape(-1, WINDOW**2, 3, HEADS, channels // HEADS).permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-2, -1) + self.bias).softmax(-1)
        tokens = self.out((scores @ value).transpose(1, 2).reshape(-1, WINDOW**2, channels))
        tiles = tokens.view(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
        return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def check_batches(
    graph: Graph, weights: dict[str, Tensor], module: nn.Module, batch: Tensor, schemes: Sequence[str]
) -> None:
    """Every tensor can be sent, and devices compute a batch as the module does."""
    assert all(graph.tensors[name].can_be_sent for node in graph.nodes for name in node.outputs)
    network = PartitionedNetwork(graph, weights).eval()
    for scheme, shares in product(schemes, ([1, 1], [2, 1, 1])):
        plan = partition(graph, scheme, shares)
        with torch.no_grad():
            [found] = run_plan(schedule(plan), lookup_of(network), {graph.inputs[0]: batch}).values()
            torch.testing.assert_close(found, module(batch), rtol=1e-4, atol=1e-5)


def test_windows_are_split_by_heads_for_any_batch() -> None:
    """Each tensor begins with samples, so windows' attention is split by heads, and a batch is computed as one."""
    torch.manual_seed(0)
    module = Windows().eval()
    graph, weights, [x] = traced(module, (3, 16, 16))
    check_batches(graph, weights, module, torch.cat([x, x + 1, 2 * x]), ("pairs", "output-channels", "rows"))
    nodes = [node for segment in partition(graph, "pairs", [1, 1]).segments[0].values() for node in segment.nodes]
    assert {node.shapes[0][2] for node in nodes if node.operator == "softmax"} == {HEADS // 2}


class SequenceFirst(nn.Module):
    """Blocks of torch's own attention on ``(tokens, samples, channels)``, with a class token and places added to it."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(WIDTH, 5)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(17, 1, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=batch_first) for _ in range(2)
        )
        self.batch_first = batch_first

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token.expand(-1, x.shape[1], -1), x]) + self.places
        x = x.transpose(0, 1) if self.batch_first else x
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(x.mean(1) if self.batch_first else x.mean(0))
        return found


class WeightedAttention(nn.Module):
    """Attention whose weights are wanted, which torch computes on ``(samples x heads, tokens, channels)``."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(WIDTH + 16, 5)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).permute(2, 0, 1)
        y, weights = self.attention(x, x, x)
        found: Tensor = self.head(torch.cat([(x + y).amax(0), weights.mean(1)], dim=-1))
        return found


@pytest.mark.parametrize("module", [SequenceFirst(False), SequenceFirst(True), WeightedAttention()])
def test_samples_come_first_wherever_a_network_has_them(module: nn.Module) -> None:
    """Torch's attention has samples as the second axis; in the graph they are the first one, and heads are split."""
    torch.manual_seed(0)
    graph, weights, [x] = traced(module.eval(), (3, 16, 16))
    check_batches(graph, weights, module, torch.cat([x, x + 1, 2 * x]), ("pairs", "output-channels", "input-channels"))
    nodes = [node for segment in partition(graph, "pairs", [1, 1]).segments[0].values() for node in segment.nodes]
    assert {node.shapes[0][1] for node in nodes if node.operator in ("softmax", "attention")} == {HEADS // 2}
