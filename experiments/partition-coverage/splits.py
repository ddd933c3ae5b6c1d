"""Which schemes split a network, and whether the parts together compute what the whole one computes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from limits import within
from torch import Tensor

from sepnas.importing.run import ImportedNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule

MAX_ERROR = 1e-4
"""Largest difference of an output from the whole network's, relative to its largest value: more is no rounding."""
DEVICES = {"rows": 3}
"""The number of devices for each scheme; 2 for others."""


def tried_schemes(imported: ImportedNetwork, limit_s: float, seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each registered scheme: ``exact``, ``refused`` or ``wrong``, and how much of the network it splits."""
    graph = imported.graph
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(graph.tensors[name].dims, generator=generator) for name in graph.inputs}
    with torch.no_grad():
        network = PartitionedNetwork(graph, imported.weights).eval()
        made = network(*inputs.values())
        wanted = made if isinstance(made, dict) else {graph.outputs[0].name: made}
        for name in SCHEMES:
            yield name, _tried(network, name, inputs, wanted, limit_s)


def _tried(
    network: PartitionedNetwork, scheme: str, inputs: dict[str, Tensor], wanted: dict[str, Tensor], limit_s: float
) -> dict[str, Any]:
    devices, begun = DEVICES.get(scheme, 2), time.process_time()
    row: dict[str, Any] = {"devices": devices}
    try:
        with within(limit_s):
            plan = partition(network.graph, scheme, [1.0] * devices)
            row |= shares_of(network.graph, plan)
            found = run_plan(schedule(plan), lookup_of(network), inputs)
            error = max(_distance(wanted[name], found[name]) for name in wanted)
            row |= {"outcome": "exact" if error <= MAX_ERROR else "wrong", "error": error}
    except Exception as error:  # each is an answer
        row |= {"outcome": "refused", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return row | {"seconds": round(time.process_time() - begun, 2)}


def _distance(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def shares_of(graph: Graph, plan: Plan) -> dict[str, float]:
    """``split``: the share of the MACs in layers that several devices compute; ``largest``: of the busiest device."""
    users: dict[str, set[int]] = {}
    for rank, segments in enumerate(plan.segments):
        for layer in (layer for segment in segments.values() for layer in segment.layers):
            users.setdefault(layer, set()).add(rank)
    macs = {node.name: graph.macs_of(node) for node in graph.nodes}
    total = max(1, sum(macs.values()))
    own = [sum(segment.flops for segment in segments.values()) / 2 for segments in plan.segments]
    split = sum(amount for name, amount in macs.items() if len(users.get(name, ())) > 1)
    return {"split": round(split / total, 4), "largest": round(max(own) / total, 4)}
