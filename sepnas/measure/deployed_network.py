"""A trained network with the tensors of a deployment, under one of its plans: what its devices compute with."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sepnas.deploy.int8 import GraphModule
from sepnas.deploy.plan_module import PlanModule
from sepnas.deployment.manifest import device_folder
from sepnas.deployment.serial import deployed_plan
from sepnas.runtime.engines.shard import Shard, load_shard

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork


def deployed_network(network: SeparableNetwork, deployment: Path, plan: str, engine: str | None = None) -> PlanModule:
    """A module that answers as the devices of a deployment do under ``plan``; ``network`` is the trained one.

    ``engine`` is a quantised engine whose graphs compute the segments; by default its layers do, in fp32.
    """
    steps = deployed_plan(deployment, plan)
    shards = [load_shard(deployment / device_folder(rank)) for rank in range(steps.num_devices)]
    return PlanModule(steps, _DeployedNetwork(network, shards, plan, engine))


class _DeployedNetwork:
    """See :class:`sepnas.nets.planned.PlannedNetwork`."""

    def __init__(self, network: SeparableNetwork, shards: list[Shard], plan: str, engine: str | None) -> None:
        self._plans = [shard.plans[plan] for shard in shards]
        self._own = deepcopy(network).eval()
        tensors = {**dict(self._own.named_parameters()), **dict(self._own.named_buffers())}
        with torch.no_grad():
            for part in self._plans:
                for name in part.weights.keys() & tensors.keys():
                    tensors[name].copy_(torch.from_numpy(part.weights[name]))
        self._graphs: dict[tuple[int, tuple[str, ...]], nn.Module] = {}
        for shard in shards if engine else ():
            _open_graphs(shard, plan, engine or "", self._graphs)

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module:
        return self._graphs.get((rank, layers)) or self._own.segment(rank, layers)

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self._plans[rank].weights.items()}

    def scale(self, name: str) -> Tensor:
        found = next(part.weights[name] for part in self._plans if name in part.weights)
        return torch.from_numpy(found)


def _open_graphs(shard: Shard, plan: str, engine: str, graphs: dict[tuple[int, tuple[str, ...]], nn.Module]) -> None:
    for key in shard.plans[plan].keys.values():
        files = shard.segments[key].files
        data = (shard.folder / files.files[engine]).read_bytes()
        graphs[shard.rank, files.layers] = GraphModule(data, torch.get_num_threads())
