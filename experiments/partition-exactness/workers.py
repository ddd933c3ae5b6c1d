"""Real worker processes: a network under a scheme, in an engine, over TLS on loopback."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cells import Whole
from networks import NETWORKS, Network

from sepnas.deploy.graph_export import export_graph
from sepnas.errors import SepnasError
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.runtime.client.session import Session

ENGINES = ("torch", "onnxruntime")
REQUESTS = 3
_BY_SOURCE = {network.source: network for network in NETWORKS}
_SMALL, _GROUPED = Network("own:unet_small", (3, 32, 32)), Network("own:depthwise_small", (3, 32, 32))
_FAMILIES = (
    ("timm:vit_tiny_patch16_224", "pairs", 2),
    ("timm:swin_tiny_patch4_window7_224", "pairs", 2),
    ("timm:convnext_tiny", "rows", 2),
    ("own:c3d_small", "rows", 3),
    ("torchvision:lraspp_mobilenet_v3_large", "rows", 2),
)


@dataclass(frozen=True)
class Case:
    network: Network
    scheme: str
    devices: int
    engine: str

    @property
    def key(self) -> dict[str, Any]:
        return {
            "network": self.network.source, "scheme": self.scheme, "devices": self.devices, "engine": self.engine
        }  # fmt: skip


def all_cases() -> Iterator[Case]:
    """Each scheme on a small network, and one scheme on a network of each family, in both engines."""
    for engine in ENGINES:
        for name, scheme in SCHEMES.items():
            network = _GROUPED if name == "groups" else _SMALL
            yield Case(network, name, min(3, scheme.max_devices or 3), engine)
        for source, name, devices in _FAMILIES:
            yield Case(_BY_SOURCE[source], name, devices, engine)


def row_of(case: Case, whole: Whole) -> dict[str, Any]:
    """The error of the workers' answers, and the bytes that they counted beyond the plan's."""
    try:
        return _run(case, whole)
    except SepnasError as error:
        return {**case.key, "outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:600]}


def _run(case: Case, whole: Whole) -> dict[str, Any]:
    plan = partition(whole.network.graph, case.scheme, [1.0] * case.devices)
    [wanted] = whole.answer.values()
    [x] = whole.inputs.values()
    launches = [Launch(options=("--engine", case.engine))] * case.devices
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "deployment"
        export_graph(whole.network, out, {"default": plan}, name="network", engines=[case.engine])
        with LocalWorkers(out, case.devices, launches) as workers, Session(out, workers.hosts) as session:
            worst = 0.0
            for _ in range(REQUESTS):
                answer = torch.from_numpy(session.infer(x.numpy()))
                worst = max(worst, ((answer - wanted).abs().max() / wanted.abs().max()).item())
            counted = session.counters().payload_bytes
    return {
        **case.key, "outcome": "answered", "error": worst, "requests": REQUESTS, "bytes": counted,
        "beyond_predicted": counted - REQUESTS * plan.payload_bytes(),
    }  # fmt: skip
