"""One cell: a network under a scheme over some devices, executed in one process and compared with the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from networks import NETWORKS, SEED, Network
from torch import Tensor

from sepnas.errors import PlanError
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.counts import count_partition
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.plan.schedule import schedule

DEVICES = (2, 3, 4, 5, 7)
FIRST = ((2, "even"), (3, "uneven"))
SHARES = {"even": (1.0,), "uneven": (2.0, 1.0, 3.0, 1.5)}
"""Shares of the devices, repeated for more of them."""


@dataclass(frozen=True)
class Cell:
    network: Network
    scheme: str
    devices: int
    kind: str

    @property
    def key(self) -> dict[str, Any]:
        return {"network": self.network.source, "scheme": self.scheme, "devices": self.devices, "shares": self.kind}

    @property
    def shares(self) -> Sequence[float]:
        pattern = SHARES[self.kind]
        return [pattern[rank % len(pattern)] for rank in range(self.devices)]


def all_cells(only: str = "") -> Iterator[Cell]:
    """All cells of the networks whose source holds this text: a few of each first, in case that time runs out.

    Schemes for two devices are tried with more, to be refused.
    """
    grid = [(devices, kind) for devices in DEVICES for kind in SHARES]
    for columns in (FIRST, [each for each in grid if each not in FIRST]):
        for network in NETWORKS:
            if only in network.source:
                yield from (Cell(network, scheme, n, kind) for scheme in SCHEMES for n, kind in columns)


@dataclass
class Whole:
    """A traced network with its answer on noise."""

    network: PartitionedNetwork
    inputs: Mapping[str, Tensor]
    answer: Mapping[str, Tensor]
    parts: dict[int, Any] = field(default_factory=dict)

    @staticmethod
    def of(network: Network) -> Whole:
        graph, weights = network.traced()
        whole = PartitionedNetwork(graph, weights).eval()
        generator = torch.Generator().manual_seed(SEED)
        inputs = {name: torch.randn(graph.tensors[name].dims, generator=generator) for name in graph.inputs}
        found = whole(*inputs.values())
        return Whole(whole, inputs, found if isinstance(found, dict) else {graph.outputs[0].name: found})


def row_of(cell: Cell, whole: Whole) -> dict[str, Any]:
    """What became of a cell: the largest error of any output, relative to its largest value, or the reason why not."""
    graph, begun = whole.network.graph, time.monotonic()
    try:
        plan = partition(graph, cell.scheme, cell.shares)
    except PlanError as error:
        return {**cell.key, "outcome": "refused", "reason": str(error), "seconds": _since(begun)}
    found = run_plan(schedule(plan), lookup_of(whole.network), whole.inputs)
    errors = [((found[name] - wanted).abs().max() / wanted.abs().max()).item() for name, wanted in whole.answer.items()]
    counts = count_partition(graph, plan)
    return {
        **cell.key, "outcome": "split", "error": max(errors), "macs": round(sum(counts.macs) / graph.macs, 4),
        "largest_share": round(max(counts.macs) / sum(counts.macs), 4), "kbytes": round(counts.payload_bytes / 1000, 1),
        "messages": counts.transfers, "seconds": _since(begun),
    }  # fmt: skip


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 2)
