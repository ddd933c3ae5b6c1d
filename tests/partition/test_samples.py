"""Axes of samples: networks that put samples and windows into one axis are split, and computed for any batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
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


def test_windows_are_split_by_heads_for_any_batch() -> None:
    """Each tensor begins with samples, so windows' attention is split by heads, and a batch is computed as one."""
    torch.manual_seed(0)
    module = Windows().eval()
    graph, weights, [x] = traced(module, (3, 16, 16))
    assert all(graph.tensors[name].can_be_sent for node in graph.nodes for name in node.outputs)
    batch = torch.cat([x, x + 1, 2 * x])
    network = PartitionedNetwork(graph, weights).eval()
    for scheme, shares in (("pairs", [1, 1]), ("pairs", [2, 1, 1]), ("output-channels", [1, 1]), ("rows", [1, 2])):
        plan = partition(graph, scheme, shares)
        with torch.no_grad():
            [found] = run_plan(schedule(plan), lookup_of(network), {graph.inputs[0]: batch}).values()
            torch.testing.assert_close(found, module(batch), rtol=1e-4, atol=1e-5)
    nodes = [node for segment in partition(graph, "pairs", [1, 1]).segments[0].values() for node in segment.nodes]
    assert {node.shapes[0][2] for node in nodes if node.operator == "softmax"} == {HEADS // 2}
