"""Networks for clips, imported as they are and split over real workers: the answers are those of the network itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepnas import api
from sepnas.partition.graph import load_graph
from sepnas.plan.plan import Plan
from sepnas.runtime.client.session import Session
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import threads, worker_processes
from tests.partition.test_trace import made

ENGINES = ("torch", "onnxruntime")
BATCH = 2
TINY_CLIP = (3, 4, 12, 12)
"""Channels, frames, height and width."""
CLIP = (3, 4, 32, 32)


class Block(nn.Module):
    """A residual block of 3-D convolutions with batch norm, as in torchvision's ``r3d_18``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        first = nn.Conv3d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        second = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        short = nn.Conv3d(inputs, outputs, 1, stride=2, bias=False)
        self.long = nn.Sequential(first, nn.BatchNorm3d(outputs), nn.ReLU(), second, nn.BatchNorm3d(outputs))
        self.short = nn.Sequential(short, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.short(x) + self.long(x))


def tiny_video() -> nn.Module:
    """The layers of ``r3d_18`` with one block, of 6 and 8 channels; batch norms are not what they were made with."""
    stem = nn.Conv3d(3, 6, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    head = (nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5))
    network = nn.Sequential(stem, nn.BatchNorm3d(6), nn.ReLU(), Block(6, 8), *head)
    for name, numbers in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(numbers, 0.5, 2.0)
    return network.eval()


SOURCE = f"{__name__}:{tiny_video.__name__}"


def split(source: str, clip: tuple[int, ...], folder: Path, engines: Iterable[str], *schemes: str) -> dict[str, Plan]:
    """Import a network, split it over two devices by each scheme, and export all of it as one deployment."""
    api.import_network(source, folder / "network", input_shapes=[clip])
    graph = load_graph(folder / "network")
    assert graph.opaque_nodes == ()
    plans = {scheme: api.partition(graph, scheme, (2, 1)) for scheme in schemes}
    api.export(folder / "network", folder / "deployment", plans=dict(plans), engines=list(engines))
    return plans


def check_answers(
    deployment: Path, hosts: Hosts, plans: Mapping[str, Plan], module: nn.Module, clip: tuple[int, ...]
) -> None:
    """Each plan gives what the module gives, and sends between devices the bytes that it says."""
    clips = np.random.default_rng(0).standard_normal((BATCH, *clip), dtype=np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(clips)).numpy()
    for name, plan in plans.items():
        with Session(deployment, hosts, plans=[name]) as session:
            answer = session.infer(clips)
            assert session.counters().payload_bytes == plan.payload_bytes(len(clips)) > 0
        assert np.abs(answer - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_clips_are_split_within_and_between_layers(tmp_path: Path) -> None:
    """A small network for clips answers as unsplit, by output channels and as a pipeline."""
    plans = split(SOURCE, TINY_CLIP, tmp_path, ["torch"], "output-channels", "pipeline")
    torch.manual_seed(0)
    with threads(tmp_path / "deployment") as hosts:
        check_answers(tmp_path / "deployment", hosts, plans, tiny_video(), TINY_CLIP)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "clip", "schemes"),
    [
        (SOURCE, TINY_CLIP, ("rows", "grid", "output-channels", "balanced-pipeline")),
        ("torchvision:r3d_18", CLIP, ("rows-then-channels", "balanced-pipeline")),
    ],
)
def test_processes_in_both_engines_split_clips(
    source: str, clip: tuple[int, ...], schemes: tuple[str, ...], tmp_path: Path
) -> None:
    """Worker processes give the answers of the unsplit network, in torch and in onnxruntime, by each scheme."""
    plans = split(source, clip, tmp_path, ENGINES, *schemes)
    torch.manual_seed(0)
    module = tiny_video() if source == SOURCE else made(source)
    for engine in ENGINES:
        with worker_processes(tmp_path / "deployment", 2, engine=engine) as (_, hosts):
            check_answers(tmp_path / "deployment", hosts, plans, module, clip)
