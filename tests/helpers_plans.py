"""A tiny deployment of three plans over one set of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sepnas.deploy.variants import named_plan
from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.policy import TransmissionPolicy
from tests.helpers_runtime import export_tiny, tiny_architecture, transfer

FEW, SILENT = "few-bytes", "silent"
NAMES = ("default", FEW, SILENT)


def policies() -> dict[str, TransmissionPolicy]:
    """Beside the network's own policy: one int8 message, and none."""
    few = tiny_architecture([{"after": 1, "transfers": [transfer(1, 0, "int8")]}], devices=2, depth=11)
    return {FEW: few.policy, SILENT: TransmissionPolicy()}


def training_images(network: SeparableNetwork, count: int = 64) -> Tensor:
    side, channels = network.architecture.image_size, network.architecture.in_channels
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(7))


def export_plans(network: SeparableNetwork, folder: Path, engines: tuple[str, ...], **options: object) -> None:
    export_tiny(
        network, folder, engines, plans=policies(), statistics_NCHW=training_images(network), **options
    )  # fmt: skip


def network_under(network: SeparableNetwork, name: str) -> SeparableNetwork:
    """The whole network under a plan, with the plan's statistics."""
    if name == "default":
        return network
    return named_plan(network, name, policies()[name], training_images(network)).network
