"""What all contestants share: trained weights, the same requests, and what the whole networks answer to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from networks import data, requests, trained

from sepnas.deploy.export import export_deployment
from sepnas.deployment.engines.registry import exact_engines
from sepnas.nets.separable import SeparableNetwork


def prepare(name: str, parts: int, folder: Path) -> None:
    """The network over so many devices, in every form that a contestant reads; what is there already stays."""
    base = folder / f"{name}-over{parts}"
    network = trained(name, parts, folder)
    np.save(f"{base}-requests.npy", requests())
    if not (expected := Path(f"{base}-expected.npy")).exists():
        np.save(expected, whole_answers(network))
    if not (onnx := Path(f"{base}.onnx")).exists():
        write_onnx(network, onnx)
    if not (deployment := Path(f"{base}-deployment")).exists():
        export(network, deployment)


@torch.inference_mode()
def whole_answers(network: SeparableNetwork) -> np.ndarray:
    """The logits of each request, one by one."""
    return np.concatenate([network(torch.from_numpy(image[None])).numpy() for image in requests()])


def export(network: SeparableNetwork, folder: Path, engines: tuple[str, ...] = exact_engines()) -> None:
    export_deployment(
        network, folder, name="runtime-peers", classes=data().classes, mean=data().mean, std=data().std,
        engines=engines,
    )  # fmt: skip


def write_onnx(network: SeparableNetwork, path: Path) -> None:
    """The whole network in one graph, weights in it."""
    example = (torch.from_numpy(requests()[:1]),)
    torch.onnx.export(network, example, str(path), dynamo=True, external_data=False, verbose=False)
