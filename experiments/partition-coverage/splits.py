"""Which schemes split a network, and whether the parts together compute what the whole one computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from limits import LateError, within
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sepnas.errors import PlanError
from sepnas.importing.run import ImportedNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule

MAX_ERROR = 1e-4
"""Largest difference of an output from the whole network's, relative to its largest value: more is no rounding."""
SAMPLES = 2
"""The number of samples that each plan is executed with: graphs are traced for one."""
DEVICES = {"rows": 3}
"""The number of devices for each scheme; 2 for others."""


class Trial:
    """A graph, noise for it of ``SAMPLES`` samples, and what it computes of each sample by itself."""

    def __init__(self, imported: ImportedNetwork, seed: int = 0) -> None:
        graph, generator = imported.graph, torch.Generator().manual_seed(seed)
        self.inputs = {
            name: torch.randn(SAMPLES, *graph.tensors[name].dims[1:], generator=generator) for name in graph.inputs
        }
        with torch.no_grad():
            self.network = PartitionedNetwork(graph, imported.weights).eval()
            each = [self.network(*(x[i : i + 1] for x in self.inputs.values())) for i in range(SAMPLES)]
            found = [made if isinstance(made, dict) else {graph.outputs[0].name: made} for made in each]
        self.wanted = {name: torch.cat([made[name] for made in found]) for name in found[0]}

    def of_module(self, module: Callable[..., Any]) -> dict[str, Any]:
        """``batch_deviation``: what the network itself computes of all samples at once, beside the graph; None where it
        fails, and ``batch_reason`` says why."""
        try:
            with torch.no_grad():
                made = module(*(x.clone() for x in self.inputs.values()))
            tensors = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
            error = max(_distance(a, b) for a, b in zip(tensors, self.wanted.values(), strict=True))
            return {"batch_deviation": error, "batch_reason": ""}
        except Exception as error:  # the code of others raises whatever it likes
            return {"batch_deviation": None, "batch_reason": reason_of(error)}

    def schemes(self, limit_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """A row for each registered scheme, and how much of the network it splits: ``exact``, ``refused``,
        ``wrong``, or ``failed``: with an error that no scheme may end with."""
        with torch.no_grad():
            for name in SCHEMES:
                yield name, _tried(self.network, name, self.inputs, self.wanted, limit_s)


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
            row |= {"outcome": "exact" if error <= MAX_ERROR else "wrong", "error": error, "samples": SAMPLES}
    except LateError as error:
        row |= {"outcome": "refused", "reason": reason_of(error)}
    except Exception as error:  # only a scheme may refuse, and only when it plans
        is_refused = isinstance(error, PlanError) and "split" not in row
        row |= {"outcome": "refused" if is_refused else "failed", "reason": reason_of(error)}
    return row | {"seconds": round(time.process_time() - begun, 2)}


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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
